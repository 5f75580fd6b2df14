"""The figures among the experiments, drawn from the records of their cells."""

from typing import Any

import numpy as np

from apps.experiments.declarations import Experiment, Table
from apps.experiments.toy import GRID, Toy
from apps.tables import Records
from tfgrad import figures


def draw(table: Table, records: Records, path: str) -> str | None:
    """Draw what an experiment shows, if it is a figure and some of its cells are done.

    Returns:
        The path, or None.
    """
    if isinstance(table, Toy):
        return _curves(table, records, path)
    if isinstance(table, Experiment) and table.angle_every:
        return _angles(table, records, path)
    return None


def _angles(table: Experiment, records: Records, path: str) -> str | None:
    found: dict[str, dict[float, list[float]]] = {}
    for cell in table.cells():
        for epoch, angle in records.get(cell.id, {}).get("angles", ()):
            found.setdefault(cell.row.label, {}).setdefault(epoch, []).append(angle)
    if not found:
        return None
    curves = {
        label: {x: (float(np.mean(v)), float(np.std(v))) for x, v in points.items()}
        for label, points in found.items()
    }
    return figures.accuracy_curves(
        path,
        curves,
        x_label="epoch",
        y_label="angle of input-gradients, training set (°)",
        title=table.title.partition(":")[0],
    )


def _curves(table: Toy, records: Records, path: str) -> str | None:
    size, seed = table.sizes[0][0], 0
    cells = [c for c in table.cells() if (c.size, c.seed) == (size, seed)]
    found: dict[str, dict[str, Any]] = {
        c.row.label: records[c.id] for c in cells if "curve" in records.get(c.id, {})
    }
    if not found:
        return None
    first = next(iter(found.values()))
    curves = {"teacher": first["teacher_curve"]}
    curves |= {label: record["curve"] for label, record in found.items()}
    return figures.functions(
        path,
        GRID[:, 0],
        curves,
        points=(first["points"], first["values"]),
        x_label="x",
        y_label="logit",
        title=table.title.partition(":")[0],
    )
