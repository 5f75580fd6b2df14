"""How the measurements of several models are shown: a table, records, curves."""

import csv
import math
from collections.abc import Mapping, Sequence

from tfgrad import figures
from tfgrad.evaluation import Measurement

Rows = Mapping[str, Measurement]


def text(title: str, rows: Rows) -> str:
    """The table in markdown, under a line that says what its numbers are."""
    first = next(iter(rows.values()))
    unit = " (%)" if first.percent else ""
    over = first.over if len({row.over for row in rows.values()}) == 1 else "what each row says"
    better = f"{first.score}{unit}, {first.direction} is better; ± over {over}"
    return f"{title}: {better}\n\n{Measurement.markdown(rows)}"


def write_rows(path: str, rows: Rows, row: str = "model") -> None:
    """A CSV file with a line for each row (a model, or as it is called) and point, all columns."""
    records = [
        {row: name, **record} for name, measured in rows.items() for record in measured.rows()
    ]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def draw(path: str, title: str, rows: Rows, reference: tuple[float, str] | None = None) -> None:
    """A curve for each model, of the points that are finite; single numbers have no figure.

    Args:
        path: of the PNG file.
        title: of the figure.
        rows: a model's name to its measurement.
        reference: a horizontal line and what it stands for.
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
    """Whether numbers span so much that a logarithmic axis shows them better."""
    return min(values) > 0 and max(values) >= 100 * min(values)
