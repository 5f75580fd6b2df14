"""The table of an experiment, beside the published numbers."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...common import invocation
from ..schema import Metric, Table
from .cells import Records


def results(table: Table, records: Records) -> list[dict[str, Any]]:
    """The numbers of every row, size and metric, as NAME.json keeps them.

    They are the mean and the (population) standard deviation over seeds, the number of seeds, all
    values, the reasons of failures, and the published (mean, standard deviation).
    """
    rows = []
    for row in table.rows:
        columns = []
        for size, metric in _columns(table):
            cells = [c for c in table.cells() if c.size == size and c.row.slug == row.slug]
            found = [records[c.id] for c in cells if c.id in records]
            values = [metric.factor * r[metric.key] for r in found if metric.key in r]
            columns.append(
                {
                    "size": size,
                    "metric": metric.key,
                    "mean": float(np.mean(values)) if values else None,
                    "deviation": float(np.std(values)) if values else None,
                    "seeds": len(values),
                    "values": values,
                    "failed": [r["failed"] for r in found if "failed" in r],
                    "paper": row.paper.get(metric.key, {}).get(size),
                }
            )
        rows.append({"label": row.label, "columns": columns})
    return rows


def markdown(table: Table, records: Records) -> str:
    """The table in Markdown, with published numbers behind measured ones."""
    rows = results(table, records)
    header, rule, published = ["row"], ["---"], []
    for i, (size, metric) in enumerate(_columns(table)):
        published.append(any(row["columns"][i]["paper"] for row in rows))
        header += [f"{table.size_title(size)}: {metric.title}", *["paper"] * published[i]]
        rule += ["---:"] * (1 + published[i])
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(rule) + "|"]
    for row in rows:
        entries = [row["label"]]
        for i, (_, metric) in enumerate(_columns(table)):
            column = row["columns"][i]
            entries.append(_own(column, metric))
            if published[i]:
                entries.append(_published(column["paper"]))
        lines.append("| " + " | ".join(entries) + " |")
    return "\n".join(lines)


def page(table: Table, records: Records, commands: Sequence[str], more: Sequence[str] = ()) -> str:
    """The page NAME.md: title, settings, pictures, table, notes and commands."""
    done = len(records)
    notes = ["Own numbers: mean ± standard deviation over n seeds (population); the paper's beside"]
    if table.note:
        notes.append(table.note)
    text = [
        f"## {table.title}",
        f"Scale `{table.scale}`: {table.summary()}.",
        *more,
        markdown(table, records),
        "; ".join(notes) + ".",
        f"{done} of {len(table.cells())} cells are done.",
        "```bash\n" + "\n".join(commands) + "\n```",
    ]
    return "\n\n".join(text) + "\n"


def command_line(arguments: Sequence[str]) -> str:
    """The command line of this run."""
    return shlex.join([*invocation.words("reproduce"), *arguments])


def _columns(table: Table) -> list[tuple[int, Metric]]:
    return [(size, metric) for size, _ in table.sizes for metric in table.metrics]


def _own(column: Mapping[str, Any], metric: Metric) -> str:
    parts = []
    if column["seeds"]:
        mean = f"{column['mean']:.{metric.digits}f}"
        if column["seeds"] > 1:
            mean += f" ± {column['deviation']:.{metric.digits}f}"
        parts.append(f"{mean} (n={column['seeds']})")
    if column["failed"]:
        parts.append(f"{len(column['failed'])} failed")
    return ", ".join(parts) or "–"


def _published(numbers: tuple[float, float | None] | None) -> str:
    if numbers is None:
        return "–"
    mean, deviation = numbers
    return f"{mean:g}" if deviation is None else f"{mean:g} ± {deviation:g}"


def in_words(record: Mapping[str, Any], metrics: Sequence[Metric]) -> str:
    """The results of one cell in a few words."""
    if "failed" in record:
        return f"failed: {record['failed']}"
    found = [m for m in metrics if m.key in record]
    return ", ".join(
        f"{'' if m.unit else m.key + ' '}{m.factor * record[m.key]:.{m.digits}f}{m.unit}"
        for m in found
    )
