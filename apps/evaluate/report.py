"""The files of an evaluation: tables, records and curves."""

import csv
import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfgrad import figures
from tfgrad.evaluation import Measurement
from tfgrad.internal import files

Rows = Mapping[str, Measurement]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a suite has measured.

    Attributes:
        tables: {test: {name of a row: measurement}}.
        titles: {test: title of its table}.
        content: What results.json holds beside flags and versions.
        summaries: Tables that come first in tables.md.
        row: Heading of the rows in CSV files.
        references: {test: (value, meaning) of a horizontal line in its figure}.
        write_more: Writes further files into a directory.
    """

    tables: Mapping[str, Rows]
    titles: Mapping[str, str]
    content: Mapping[str, Any]
    summaries: Sequence[str] = ()
    row: str = "model"
    references: Mapping[str, tuple[float, str]] = dataclasses.field(default_factory=dict)
    write_more: Callable[[str], None] = lambda directory: None


def write(directory: str, report: Report, head: Mapping[str, Any]) -> str:
    """Write all files of a report.

    Args:
        directory: Directory to write into.
        report: What was measured.
        head: What results.json holds first.

    Returns:
        The content of tables.md.
    """
    report.write_more(directory)
    tables = [text(report.titles[test], rows) for test, rows in report.tables.items()]
    page = "\n\n".join([*report.summaries, *tables])
    files.write_text(os.path.join(directory, "tables.md"), page + "\n")
    for test, rows in report.tables.items():
        path = os.path.join(directory, test)
        write_rows(f"{path}.csv", rows, report.row)
        draw(f"{path}.png", report.titles[test], rows, report.references.get(test))
    files.write_json(os.path.join(directory, "results.json"), {**head, **report.content})
    return page


def text(title: str, rows: Rows) -> str:
    """The table in Markdown, under a line that says what its numbers are."""
    first = next(iter(rows.values()))
    unit = " (%)" if first.percent else ""
    over = first.over if len({row.over for row in rows.values()}) == 1 else "what each row says"
    better = f"{first.score}{unit}, {first.direction} is better; ± over {over}"
    return f"{title}: {better}\n\n{Measurement.markdown(rows)}"


def write_rows(path: str, rows: Rows, row: str = "model") -> None:
    """Write a CSV file with a line for each row and point, and all columns.

    Args:
        path: CSV file to write.
        rows: {name of a row: measurement}.
        row: Heading of the rows' names.
    """
    records = [
        {row: name, **record} for name, measured in rows.items() for record in measured.rows()
    ]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def draw(path: str, title: str, rows: Rows, reference: tuple[float, str] | None = None) -> None:
    """Draw a curve for each row, through its finite points; single numbers have no figure.

    Args:
        path: PNG file to write.
        title: Title of the figure.
        rows: {name of a row: measurement}.
        reference: (value, meaning) of a horizontal line.
    """
    first = next(iter(rows.values()))
    curves = {
        name: {x: point for x, point in measured.curve().items() if all(map(math.isfinite, point))}
        for name, measured in rows.items()
    }
    curves = {name: points for name, points in curves.items() if points}
    if not first.along or not curves:
        return
    figures.curves(
        path,
        curves,
        x_label=first.along,
        y_label=first.score,
        log_x=_spans(first.points),
        log_y=_spans([mean for points in curves.values() for mean, _ in points.values()]),
        title=title,
        horizontal=reference,
        x_names=dict(zip(first.points, first.labels, strict=True)) if first.labels else None,
    )


def _spans(values: Sequence[float]) -> bool:
    """Whether the numbers span two orders of magnitude, so that a logarithmic axis is better."""
    return min(values) > 0 and max(values) >= 100 * min(values)
