"""Scores as curves or bars: along an axis, by epoch, functions of one variable, in panels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures.canvas import finished, finite, new_figure

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

_PANELS = 4  # per row
_INSIDE = 5  # number of curves up to which the legend is placed inside the axes
_Draw = Callable[[Any, str, Any, dict[str, Any]], None]


def curves(
    path: str | os.PathLike[str] | None,
    curves: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    title: str | None = None,
    horizontal: tuple[float, str] | None = None,
    x_names: Mapping[float, str] | None = None,
) -> Figure:
    """Draw a score along an axis: a line with error bars for each model.

    Args:
        path: The PNG file to write; None writes none.
        curves: {name of a model: {x: (mean, standard deviation)}}, or {x: (mean, low, high)} for
            bars that are not symmetric.
        x_label, y_label: Labels of the axes.
        log_x, log_y: Whether an axis is logarithmic, which requires values > 0.
        title: A line above the axes.
        horizontal: Value and name of a horizontal reference line, such as (0.1, "chance").
        x_names: {x: the label of its tick instead of the number}.

    Returns:
        The figure, which a notebook shows.

    Raises:
        ArgumentError: There is no curve, one is empty, not finite or has other points, a bar does
            not contain its mean, or a logarithmic axis gets values ≤ 0.
        ImportError: matplotlib is not installed.
    """

    def draw(axes: Any, name: str, points: Any, style: dict[str, Any]) -> None:
        x, mean, low, high = _bars(name, points)
        for option, asked, values in (("log_x", log_x, x), ("log_y", log_y, mean)):
            if asked and values.min() <= 0:
                raise ArgumentError(
                    f"{option}: got {values.min():g} in curves[{name!r}]; expected values above 0 "
                    "on a logarithmic axis; try without that point or the option."
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
    path: str | os.PathLike[str] | None,
    metrics: Mapping[str, Sequence[float]],
    *,
    y_label: str = "value",
    title: str | None = None,
) -> Figure:
    """Draw metrics over epochs, such as `History.history` of `fit`.

    Args:
        path: The PNG file to write; None writes none.
        metrics: {name of a metric: its value after each epoch}.
        y_label: Label of the vertical axis.
        title: A line above the axes.

    Returns:
        The figure, which a notebook shows.

    Raises:
        ArgumentError: There is no metric, or one is empty or not finite.
        ImportError: matplotlib is not installed.
    """

    def draw(axes: Any, name: str, points: Any, style: dict[str, Any]) -> None:
        values = finite(points, f"metrics[{name!r}]")
        axes.plot(np.arange(1, len(values) + 1), values, label=name, **style)
        axes.xaxis.get_major_locator().set_params(integer=True)

    return _figure(path, "metrics", metrics, draw, "epoch", y_label, title)


def functions(
    path: str | os.PathLike[str] | None,
    x: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    points: ArrayLike | None = None,
    x_label: str = "x",
    y_label: str = "f(x)",
    title: str | None = None,
) -> Figure:
    """Draw functions of one variable; the first is the reference, a broad grey line.

    Args:
        path: The PNG file to write; None writes none.
        x: The points at which the functions were evaluated, [n].
        curves: {name of a function: its values, [n]}.
        points: (x, y) of points to mark, each [m].
        x_label, y_label: Labels of the axes.
        title: A line above the axes.

    Returns:
        The figure, which a notebook shows.

    Raises:
        ArgumentError: There is no curve, lengths do not fit, or a value is not finite.
        ImportError: matplotlib is not installed.
    """
    where = finite(x, "x")
    marked = None if points is None else finite(points, "points")
    if marked is not None and (marked.ndim != 2 or len(marked) != 2):
        raise ArgumentError(f"points: got shape {marked.shape}; expected (x, y), each [m].")

    def draw(axes: Any, name: str, values: Any, style: dict[str, Any]) -> None:
        heights = finite(values, f"curves[{name!r}]")
        if heights.shape != where.shape or where.ndim != 1:
            raise ArgumentError(
                f"curves[{name!r}]: got shape {heights.shape}; expected [n] like x, which has "
                f"shape {where.shape}."
            )
        first = not axes.lines
        broad = {"linewidth": 5, "color": "0.8"} if first else {"linewidth": 1.6}
        axes.plot(where, heights, label=name, **broad)
        if first and marked is not None:
            axes.plot(*marked, "ko", markersize=5, zorder=3)

    return _figure(path, "curves", curves, draw, x_label, y_label, title)


def bars(
    path: str | os.PathLike[str] | None,
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    control: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw scores side by side: a panel for each test, four in a row, a bar for each method.

    Args:
        path: The PNG file to write; None writes none.
        panels: {heading of a test: {method: (score, standard deviation)}}. Methods are in the
            order in which they first appear; a panel leaves the others' lines blank.
        control: A method whose score is drawn as a line through the panel.
        title: A line above the panels.

    Returns:
        The figure, which a notebook shows.

    Raises:
        ArgumentError: There is nothing to draw, or a number is not finite.
        ImportError: matplotlib is not installed.
    """
    names = list(dict.fromkeys(name for scores in panels.values() for name in scores))
    if not names:
        raise ArgumentError(
            f"panels: got nothing to draw in {dict(panels)}; expected one score or more."
        )
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
    return finished(figure, path)


def _bars(name: str, points: Mapping[float, Sequence[float]]) -> tuple[np.ndarray, ...]:
    """x in ascending order, with the means and the lower and upper ends of their bars.

    Raises:
        ArgumentError: The points have another form, are not finite, or a bar excludes its mean.
    """
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
            f"curves[{name!r}]: got a bar that ends before its mean; expected low ≤ mean ≤ high, "
            "and no standard deviation below 0."
        )
    return x, mean, low, high


def _figure(
    path: str | os.PathLike[str] | None,
    argument: str,
    curves: Mapping[str, Any],
    draw: _Draw,
    x_label: str,
    y_label: str,
    title: str | None,
    finish: Callable[[Any], None] = lambda axes: None,
) -> Figure:
    """Draw every curve into one pair of axes with a legend; `finish` is called before the labels.

    Raises:
        ArgumentError: There is no curve, or one is empty.
    """
    if not curves or not all(len(points) for points in curves.values()):
        raise ArgumentError(
            f"{argument}: got nothing to draw in {dict(curves)}; expected one point or more for "
            "each name."
        )
    crowded = len(curves) > _INSIDE
    figure = new_figure((7.5 if crowded else 6.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, points) in enumerate(curves.items()):
        # Markers distinguish lines where colours do not (print, colour blindness).
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
    return finished(figure, path)
