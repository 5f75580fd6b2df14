"""Scores as lines or bars: along an axis, by epoch, functions of one variable, in panels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures.canvas import finite, new_figure, write

_PANELS = 4  # in a row
_INSIDE = 5  # names that a legend among the curves has room for
_Draw = Callable[[Any, str, Any, dict[str, Any]], None]


def curves(
    path: str | os.PathLike[str],
    curves: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    title: str | None = None,
    horizontal: tuple[float, str] | None = None,
    x_names: Mapping[float, str] | None = None,
) -> str:
    """Draw a score along an axis, a line with error bars for each model.

    Args:
        path: the PNG to write.
        curves: a model's name to {x: (mean, deviation)}, or to {x: (mean, low, high)} where the
            bar is not symmetric.
        x_label, y_label: what stands below the axes and to their left.
        log_x, log_y: whether an axis is logarithmic, which takes values above 0.
        title: a line above.
        horizontal: a value to draw a line of reference at, and its name, such as (0.1, "chance").
        x_names: {x: what stands below it in place of the number}.

    Returns:
        The path.

    Raises:
        ArgumentError: there is no curve, one is empty, not finite or has other points, a bar does
            not contain its mean, or a logarithmic axis is given values from 0 down.
        ImportError: matplotlib is not installed.
    """

    def draw(axes: Any, name: str, points: Any, style: dict[str, Any]) -> None:
        x, mean, low, high = _bars(name, points)
        for option, asked, values in (("log_x", log_x, x), ("log_y", log_y, mean)):
            if asked and values.min() <= 0:
                raise ArgumentError(
                    f"{option}: curves[{name!r}] has {values.min():g}; a logarithmic axis takes "
                    "values above 0. Leave that point or the option out."
                )
        axes.errorbar(x, mean, yerr=(mean - low, high - mean), label=name, capsize=3, **style)

    def finish(axes: Any) -> None:
        if horizontal is not None:
            height, label = horizontal
            axes.axhline(height, label=label, color="0.5", linestyle="--", linewidth=1, zorder=0)
        axes.set_xscale("log" if log_x else "linear")
        axes.set_yscale("log" if log_y else "linear")
        if x_names:
            style = {"rotation": 60, "ha": "right", "rotation_mode": "anchor", "fontsize": 8}
            axes.set_xticks(list(x_names), list(x_names.values()), **style)

    return _figure(path, "curves", curves, draw, x_label, y_label, title, finish)


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
        y_label: what stands to the left.
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

    return _figure(path, "metrics", metrics, draw, "epoch", y_label, title)


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
        x_label, y_label: what stands below the axes and to their left.
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

    return _figure(path, "curves", curves, draw, x_label, y_label, title)


def bars(
    path: str | os.PathLike[str],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    control: str | None = None,
    title: str | None = None,
) -> str:
    """Draw scores side by side: a panel for each test, a bar for each method, four in a row.

    Args:
        path: the PNG to write.
        panels: a test's heading to {method: (score, deviation)}. Methods stand in the order in
            which they first appear; one that a panel does not have is left blank there.
        control: a method whose score is drawn as a line through the panel.
        title: a line above all.

    Returns:
        The path.

    Raises:
        ArgumentError: there is nothing to draw, or a number is not finite.
        ImportError: matplotlib is not installed.
    """
    names = list(dict.fromkeys(name for scores in panels.values() for name in scores))
    if not names:
        raise ArgumentError(f"panels: got nothing to draw in {dict(panels)}.")
    columns = min(len(panels), _PANELS)
    rows = -(-len(panels) // columns)
    size = (1.6 + 2.4 * columns, rows * (0.9 + 0.28 * len(names)) + (0.3 if title else 0))
    figure = new_figure(size, layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (heading, scores) in zip(grid.flat, panels.items(), strict=False):
        for name, pair in scores.items():
            score, deviation = finite(pair, f"panels[{heading!r}][{name!r}]")
            colour = "0.6" if name == control else "C0"
            axes.barh(names.index(name), score, xerr=deviation, color=colour, capsize=2)
            if name == control:
                axes.axvline(score, color="0.5", linestyle="--", linewidth=1, zorder=0)
        axes.set_title(heading, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.locator_params(axis="x", nbins=4)
        axes.ticklabel_format(axis="x", scilimits=(-3, 4))
        axes.set_yticks(range(len(names)), names)
    grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    if title:
        figure.suptitle(title, fontsize=11)
    return write(figure, path)


def _bars(name: str, points: Mapping[float, Sequence[float]]) -> tuple[np.ndarray, ...]:
    """x in order, and there the mean and the ends of its bar."""
    try:
        table = np.array([[x, *points[x]] for x in sorted(points)], np.float64)
    except (TypeError, ValueError):
        table = np.zeros(())
    if table.ndim != 2 or table.shape[1] not in (3, 4):
        raise ArgumentError(
            f"curves[{name!r}]: got {points}; expected {{x: (mean, deviation)}} or "
            "{x: (mean, low, high)}."
        )
    x, mean, *ends = finite(table, f"curves[{name!r}]").T
    low, high = ends if len(ends) == 2 else (mean - ends[0], mean + ends[0])
    if (low > mean).any() or (high < mean).any():
        raise ArgumentError(
            f"curves[{name!r}]: a bar ends before its mean; expected low ≤ mean ≤ high, and no "
            "deviation below 0."
        )
    return x, mean, low, high


def _figure(
    path: str | os.PathLike[str],
    argument: str,
    curves: Mapping[str, Any],
    draw: _Draw,
    x_label: str,
    y_label: str,
    title: str | None,
    finish: Callable[[Any], None] = lambda axes: None,
) -> str:
    if not curves or not all(len(points) for points in curves.values()):
        raise ArgumentError(f"{argument}: got nothing to draw in {dict(curves)}.")
    crowded = len(curves) > _INSIDE
    figure = new_figure((7.5 if crowded else 6.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, points) in enumerate(curves.items()):
        # The marker tells lines apart where colours do not (print, colour blindness).
        draw(axes, name, points, {"marker": "osD^vPX*"[i % 8], "markersize": 4.5, "linewidth": 1.6})
    finish(axes)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if crowded else {}
    axes.legend(fontsize=9, framealpha=0.8, edgecolor="none", **beside)
    if title:
        axes.set_title(title, fontsize=11)
    return write(figure, path)
