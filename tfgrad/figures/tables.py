"""Saliency maps of tables as bars."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures.canvas import finished, finite, new_figure

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

_NAMED = 20  # features up to which every bar has its name


def saliency_bars(
    path: str | os.PathLike[str] | None,
    maps: Mapping[str, ArrayLike],
    *,
    features: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw saliency maps of tables as bars: a row for each example, a column for each method.

    Each map has an axis of its own, as the units of methods differ; values below zero are blue.

    Args:
        path: The PNG file to write; None writes none.
        maps: {name of a method: its raw maps [n, F]}.
        features: The names of the F features.
        rows: The names of the n examples.
        title: A line above the figure.

    Returns:
        The figure, which a notebook shows.

    Raises:
        ArgumentError: There is no map, shapes do not fit, or a value is NaN or infinite.
        ImportError: matplotlib is not installed.
    """
    found = {name: finite(given, f"maps[{name!r}]") for name, given in maps.items()}
    shape = next((m.shape for m in found.values()), ())
    if len(shape) != 2 or 0 in shape or any(m.shape != shape for m in found.values()):
        shapes = {name: m.shape for name, m in found.items()}
        raise ArgumentError(f"maps: got {shapes}; expected one map or more, each [n, F].")
    count, width = shape
    if rows is not None and len(rows) != count:
        raise ArgumentError(f"rows: got {len(rows)} names; expected {count}.")
    names = feature_names(features, width)
    size = (1.2 + 2.4 * len(found), 0.7 + count * (0.3 + bar_height(width)))
    figure = new_figure(size, layout="constrained")
    grid = figure.subplots(count, len(found), sharey=True, sharex="col", squeeze=False)
    for j, (name, values) in enumerate(found.items()):
        for i, axes in enumerate(grid[:, j]):
            draw_bars(axes, values[i])
            if i == 0:
                axes.set_title(name, fontsize=9)
            if j == 0 and rows is not None:
                axes.set_ylabel(rows[i], fontsize=8)
    name_bars(grid[0, 0], names)
    if title:
        figure.suptitle(title, fontsize=11)
    return finished(figure, path)


def bar_height(width: int) -> float:
    """The height of the bars of a number of features, in inches."""
    return 0.18 * min(width, _NAMED)


def feature_names(features: Sequence[str] | None, width: int) -> list[str]:
    """The names of the features, or their numbers."""
    if features is not None and len(features) != width:
        raise ArgumentError(f"features: got {len(features)} names; expected {width}.")
    return list(features) if features is not None else [str(k) for k in range(width)]


def draw_bars(axes: Any, values: np.ndarray) -> None:
    """Draw the map [F] of one row of a table."""
    signs = np.where(values < 0, "#2166ac", "#b2182b")
    axes.barh(np.arange(len(values)), values, color=signs, height=0.8)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)


def name_bars(axes: Any, names: Sequence[str]) -> None:
    """Write the names of the features beside their bars, some of them where they are many."""
    width = len(names)
    step = -(-width // _NAMED)
    axes.set_yticks(np.arange(0, width, step), names[::step])
    axes.set_ylim(width - 0.5, -0.5)
