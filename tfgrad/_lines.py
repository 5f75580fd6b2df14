"""Lines in one pair of axes: accuracies, metrics by epoch, functions of one variable."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad._drawing import finite, new_figure, write
from tfgrad.errors import ArgumentError


def accuracy_curves(
    path: str | os.PathLike[str],
    curves: Mapping[str, Mapping[float, tuple[float, float]]],
    *,
    x_label: str = "standard deviation σ of the input noise",
    y_label: str = "test accuracy",
    title: str | None = None,
) -> str:
    """Draw accuracy against noise, a line for each model, with error bars.

    Args:
        path: the PNG to write.
        curves: a model's name to {σ: (mean accuracy, standard deviation)}, accuracies in 0 to 1.
        x_label: the axis below.
        y_label: the axis to the left.
        title: a line above.

    Returns:
        The path.

    Raises:
        ArgumentError: there is no curve, or one is empty or not finite.
        ImportError: matplotlib is not installed.
    """

    def draw(axes: Any, name: str, points: Any, style: dict[str, Any]) -> None:
        sigmas = sorted(points)
        table = finite([[s, *points[s]] for s in sigmas], f"curves[{name!r}]")
        if table.ndim != 2 or table.shape[1] != 3:
            raise ArgumentError(
                f"curves[{name!r}]: expected {{σ: (mean, deviation)}}, got {points}."
            )
        axes.errorbar(*table.T[:2], yerr=table.T[2], label=name, capsize=3, **style)

    return _lines_figure(path, "curves", curves, draw, x_label, y_label, title)


def history(
    path: str | os.PathLike[str],
    metrics: Mapping[str, Sequence[float]],
    *,
    y_label: str = "value",
    title: str | None = None,
) -> str:
    """Draw metrics over epochs, as `History.history` of `fit` holds them.

    Args:
        path: the PNG to write.
        metrics: a metric's name to its value after each epoch.
        y_label: the axis to the left.
        title: a line above.

    Returns:
        The path.

    Raises:
        ArgumentError: there is no metric, or one is empty or not finite.
        ImportError: matplotlib is not installed.
    """

    def draw(axes: Any, name: str, points: Any, style: dict[str, Any]) -> None:
        values = finite(points, f"metrics[{name!r}]")
        axes.plot(np.arange(1, len(values) + 1), values, label=name, **style)
        axes.xaxis.get_major_locator().set_params(integer=True)

    return _lines_figure(path, "metrics", metrics, draw, "epoch", y_label, title)


def functions(
    path: str | os.PathLike[str],
    x: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    points: ArrayLike | None = None,
    x_label: str = "x",
    y_label: str = "f(x)",
    title: str | None = None,
) -> str:
    """Draw functions of one variable; the first is the reference, drawn broad and grey.

    Args:
        path: the PNG to write.
        x: where the functions were evaluated, [n].
        curves: a function's name to its values, [n].
        points: (x, y) of single points to mark, each [m].
        x_label: the axis below.
        y_label: the axis to the left.
        title: a line above.

    Returns:
        The path.

    Raises:
        ArgumentError: there is no curve, or lengths do not fit, or a value is not finite.
        ImportError: matplotlib is not installed.
    """
    where = finite(x, "x")
    marked = None if points is None else finite(points, "points")
    if marked is not None and (marked.ndim != 2 or len(marked) != 2):
        raise ArgumentError(f"points: got shape {marked.shape}, expected (x, y), each [m].")

    def draw(axes: Any, name: str, values: Any, style: dict[str, Any]) -> None:
        heights = finite(values, f"curves[{name!r}]")
        if heights.shape != where.shape or where.ndim != 1:
            raise ArgumentError(
                f"curves[{name!r}]: got shape {heights.shape}, expected that of x, {where.shape}."
            )
        first = not axes.lines
        broad = {"linewidth": 5, "color": "0.8"} if first else {"linewidth": 1.6}
        axes.plot(where, heights, label=name, **broad)
        if first and marked is not None:
            axes.plot(*marked, "ko", markersize=5, zorder=3)

    return _lines_figure(path, "curves", curves, draw, x_label, y_label, title)


def _lines_figure(
    path: str | os.PathLike[str],
    argument: str,
    curves: Mapping[str, Any],
    draw: Callable[[Any, str, Any, dict[str, Any]], None],
    x_label: str,
    y_label: str,
    title: str | None,
) -> str:
    if not curves or not all(len(points) for points in curves.values()):
        raise ArgumentError(f"{argument}: got nothing to draw in {dict(curves)}.")
    figure = new_figure((6.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, points) in enumerate(curves.items()):
        # The marker tells lines apart where colours do not (print, colour blindness).
        draw(axes, name, points, {"marker": "osD^vPX*"[i % 8], "markersize": 4.5, "linewidth": 1.6})
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    if title:
        axes.set_title(title, fontsize=11)
    return write(figure, path)
