"""Cells of an experiment on disk, and the table that they make."""

import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tfgrad.errors import ArgumentError, ResumeError

from ...common import work_directory
from ..schema import Cell, Metric, Table, declaration, digest

Records = Mapping[str, dict[str, Any]]


class Store:
    """WORK_DIR/cells: a file for every finished cell, which several processes may share."""

    def __init__(self, work_dir: str):
        self.directory = os.path.join(work_dir, "cells")
        try:
            os.makedirs(self.directory, exist_ok=True)
        except OSError as error:
            raise ArgumentError(
                f"--work_dir: {work_dir!r} cannot be written ({error.strerror}); choose another "
                "directory."
            ) from error

    def path(self, cell: Cell) -> str:
        """Where a cell's record lies."""
        return os.path.join(self.directory, f"{cell.id}.json")

    def write(self, cell: Cell, settings: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Keep a record, with what it was made of."""
        described = declaration(settings, cell)
        write_text(
            self.path(cell),
            json.dumps({"digest": digest(described), "declaration": described, **record}) + "\n",
        )

    def read(self, cells: Iterable[Cell], settings: Mapping[str, Any] | None) -> dict[str, Any]:
        """The records there are, by the cells' ids.

        Args:
            cells: which to look for.
            settings: what they must have been made with; None: all the same.

        Raises:
            ResumeError: a record is damaged, or was made with other settings.
        """
        records: dict[str, Any] = {}
        cells = [cell for cell in cells if os.path.exists(self.path(cell))]
        for cell in cells:
            record = records[cell.id] = work_directory.read_json(self.path(cell))
            if not isinstance(record, dict) or "declaration" not in record:
                raise ResumeError(
                    f"--work_dir: {self.path(cell)!r} is damaged; remove it and start again."
                )
        if settings is None:
            settings = {}
            for record in records.values():  # Only some rows tell of a pre-trained network.
                settings = record["declaration"]["settings"] | settings
        for cell in cells:
            path, record = self.path(cell), records[cell.id]
            expected = declaration(settings, cell)
            if record.get("digest") != digest(expected):
                changes = "; ".join(differences(record["declaration"], expected)) or "its digest"
                raise ResumeError(
                    f"--work_dir: {path!r} was made under other settings: {changes}. Choose "
                    "another --work_dir, or remove that file."
                )
        return records


def write_text(path: str, text: str) -> None:
    """Write aside, under a name of this process, and rename."""
    aside = f"{path}.tmp-{os.getpid()}"
    with open(aside, "w") as file:
        file.write(text)
    os.replace(aside, path)


def differences(earlier: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two declarations, a line each."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        lines = []
        for key in sorted(set(earlier) | set(now)):
            inner = f"{name}.{key}" if name else key
            lines += differences(earlier.get(key), now.get(key), inner)
        return lines
    return [] if earlier == now else [f"{name} was {earlier!r}, now {now!r}"]


def narrowed(
    table: Table,
    rows: Sequence[str] = (),
    sizes: Sequence[str] = (),
    seeds: Sequence[str] = (),
    part: str = "0/1",
) -> list[Cell]:
    """The cells that a command asks for.

    Args:
        table: the experiment.
        rows: numbers from 1, or labels; none: all.
        sizes: none: all.
        seeds: none: all.
        part: "i/n" takes every nth cell of these, from the ith.

    Raises:
        ArgumentError: a row, size or seed there is none of, or a malformed part.
    """
    names = {text: row.slug for i, row in enumerate(table.rows, 1) for text in (str(i), row.label)}
    known_sizes = {str(size): size for size, _ in table.sizes}
    most = max(count for _, count in table.sizes)
    wanted_rows = _chosen("rows", rows, names)
    wanted_sizes = _chosen("sizes", sizes, known_sizes)
    wanted_seeds = _chosen("seeds", seeds, {str(seed): seed for seed in range(most)})
    cells = [
        cell
        for cell in table.cells()
        if cell.row.slug in wanted_rows and cell.size in wanted_sizes and cell.seed in wanted_seeds
    ]
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ArgumentError(f"--part: got {part!r}; expected INDEX/COUNT from 0, e.g. 0/2 and 1/2.")
    return cells[int(index) :: int(count)]


def _chosen(flag: str, texts: Sequence[str], known: Mapping[str, Any]) -> set[Any]:
    for text in texts:
        if text not in known:
            raise ArgumentError(f"--{flag}: got {text!r}; choose from {', '.join(known)}.")
    return {known[text] for text in texts} if texts else set(known.values())


def results(table: Table, records: Records) -> list[dict[str, Any]]:
    """Mean, deviation over seeds (population) and number of seeds of every row, size and metric."""
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
    """The table, the paper's numbers beside one's own."""
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
    """The table under its title, with the settings, what to know, and the commands."""
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
    """What to type."""
    return shlex.join(["python", "-m", "apps.reproduce", *arguments])


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


def said(record: Mapping[str, Any], metrics: Sequence[Metric]) -> str:
    """What came of a cell, in a few words."""
    if "failed" in record:
        return f"failed: {record['failed']}"
    found = [m for m in metrics if m.key in record]
    return ", ".join(
        f"{'' if m.unit else m.key + ' '}{m.factor * record[m.key]:.{m.digits}f}{m.unit}"
        for m in found
    )
