"""Figures of experiments, drawn from the records of their cells."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfgrad import figures
from tfgrad.evaluation import Measurement

from ..schema import Cell, Examination, Experiment, Table, Toy
from ..schema.toy import GRID
from .cells import Records

# A function of (experiment, records, base path) that draws a figure, and returns its path or None.
Drawer = Callable[[Examination, Records, str], str | None]


def draw(table: Table, records: Records, base: str) -> list[str]:
    """Draw the figures of an experiment from the cells that are done.

    Args:
        table: The experiment.
        records: Records of its cells.
        base: Path of the pictures without ".png".

    Returns:
        The paths of the pictures.
    """
    if isinstance(table, Examination):
        drawn = [
            drawer(table, records, base) for test in table.tests for drawer in _DRAWN.get(test, ())
        ]
        return [path for path in drawn if path]
    path = None
    if isinstance(table, Toy):
        path = _curves(table, records, f"{base}.png")
    elif isinstance(table, Experiment) and table.angle_every:
        path = _angles(table, records, f"{base}.png")
    return [path] if path else []


def _angles(table: Experiment, records: Records, path: str) -> str | None:
    found: dict[str, dict[float, list[float]]] = {}
    for cell in table.cells():
        for epoch, angle in records.get(cell.id, {}).get("angles", ()):
            found.setdefault(cell.row.label, {}).setdefault(epoch, []).append(angle)
    if not found:
        return None
    figures.curves(
        path,
        _over_seeds(found),
        x_label="epoch",
        y_label="angle of input-gradients, training set (°)",
        title=_title(table),
    )
    return path


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
    figures.functions(
        path,
        GRID[:, 0],
        curves,
        points=(first["points"], first["values"]),
        x_label="x",
        y_label="logit",
        title=_title(table),
    )
    return path


def _measured(key: str, name: str, x_label: str, y_label: str, **options: Any) -> Drawer:
    """A function that draws the curves under `key` in the records, one line for each row."""

    def drawn(table: Examination, records: Records, base: str) -> str | None:
        curves = {
            cell.row.label: Measurement.from_json(records[cell.id][key]).curve()
            for cell in _first(table)
            if key in records.get(cell.id, {})
        }
        if not curves:
            return None
        title = _title(table)
        figures.curves(
            f"{base}{name}.png", curves, x_label=x_label, y_label=y_label, title=title, **options
        )
        return f"{base}{name}.png"

    return drawn


def _samples(table: Examination, records: Records, base: str) -> str | None:
    found = _arrays(table, records, base, "samples")
    return _rows(f"{base}_samples.png", {label: a["samples"] for label, a in found.items()}, table)


def _denoised(table: Examination, records: Records, base: str) -> str | None:
    found = _arrays(table, records, base, "denoised")
    if not found:
        return None
    first = next(iter(found.values()))
    rows = {"image": first["clean"], "under noise": first["noised"]}
    rows |= {label: arrays["denoised"] for label, arrays in found.items()}
    return _rows(f"{base}_denoised.png", rows, table)


def _gradients(table: Examination, records: Records, base: str) -> str | None:
    found = _arrays(table, records, base, "gradients")
    if not found:
        return None
    first = next(iter(found.values()))
    rows = {"image": first["images"]}
    for label, arrays in found.items():
        size = np.abs(arrays["gradients"]).sum(-1, keepdims=True)
        rows[label] = size / np.percentile(size, 99, axis=(1, 2, 3), keepdims=True)
    return _rows(f"{base}.png", rows, table)


def _retraining(table: Examination, records: Records, base: str) -> str | None:
    """Accuracy against the share of removed pixels: one line per method, averaged over seeds."""
    found: dict[str, dict[float, list[float]]] = {}
    for cell in table.cells():
        if "retraining" in records.get(cell.id, {}):
            measured = Measurement.from_json(records[cell.id]["retraining"])
            points = found.setdefault(cell.row.label, {})
            for point, value in zip(measured.points, measured.values, strict=True):
                points.setdefault(point, []).append(value)
    if not found:
        return None
    figures.curves(
        f"{base}.png",
        _over_seeds(found),
        x_label="share of pixels removed, the most salient first",
        y_label="accuracy after retraining",
        title=_title(table),
    )
    return f"{base}.png"


def _over_seeds(found: Mapping[str, Mapping[float, list[float]]]) -> dict[str, Any]:
    return {
        label: {x: (float(np.mean(v)), float(np.std(v))) for x, v in points.items()}
        for label, points in found.items()
    }


def _maps(table: Examination, records: Records, base: str) -> str | None:
    found = _arrays(table, records, base, "maps")
    if not found:
        return None
    first = next(iter(found.values()))
    figures.saliency_grid(
        f"{base}.png",
        first["images"],
        {label: arrays["maps"] for label, arrays in found.items()},
        title=_title(table),
    )
    return f"{base}.png"


def _rows(path: str, rows: Mapping[str, np.ndarray], table: Table) -> str | None:
    if not rows:
        return None
    images = [list(row) for row in rows.values()]
    figures.grid(path, images, captions=list(rows), title=_title(table))
    return path


def _arrays(table: Examination, records: Records, base: str, name: str) -> dict[str, Any]:
    """The arrays beside the records of the first seed's cells, by label, if they have `name`."""
    found = {}
    for cell in _first(table):
        path = os.path.join(os.path.dirname(base), "images", f"{cell.id}.npz")
        if cell.id in records and os.path.exists(path):
            with np.load(path) as arrays:
                if name in arrays:
                    found[cell.row.label] = dict(arrays)
    return found


def _title(table: Table) -> str:
    """The title up to its colon, "Figure 5.1"."""
    return table.title.partition(":")[0]


def _first(table: Table) -> list[Cell]:
    return [cell for cell in table.cells() if cell.seed == 0]


_DRAWN: Mapping[str, tuple[Drawer, ...]] = {
    "density": (
        _measured(
            "density",
            "",
            "standard deviation σ of the noise η",
            "E p(x+η|y) / p(x|y)",
            log_x=True,
            log_y=True,
        ),
    ),
    "noise": (_measured("noise", "", "standard deviation σ of the noise", "accuracy"),),
    "pixels": tuple(
        _measured(f"{whose}_curve", f"_{whose}", "share of pixels replaced", label, log_x=True)
        for whose, label in (
            ("own", "accuracy, own gradients"),
            ("reference", "accuracy of the baseline"),
        )
    ),
    "samples": (_samples,),
    "denoised": (_denoised,),
    "gradients": (_gradients,),
    "energy": (_gradients,),
    "perturbation": (
        _measured("perturbation", "", "share of pixels removed, the least salient first", "change"),
    ),
    "retraining": (_retraining,),
    "maps": (_maps,),
}
