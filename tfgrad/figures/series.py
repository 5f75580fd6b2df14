"""Series as curves, and tables as bars, with their saliency maps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures.canvas import finished, finite, new_figure
from tfgrad.figures.captions import Captions
from tfgrad.figures.colouring import SCALES, coloured
from tfgrad.internal.arguments import one_of

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

_PALE, _OPACITY = "OrRd", 0.65  # curves are visible on it
_APART = 3  # number of channels up to which their curves share one axis
_SHADES = ("0.0", "0.35", "0.55")
_STYLES = ("-", "--", ":")
_NAMED = 12  # features up to which every bar has its name


def saliency_series(
    path: str | os.PathLike[str] | None,
    series: ArrayLike,
    maps: Mapping[str, ArrayLike],
    *,
    labels: Sequence[Any] | None = None,
    predictions: Sequence[Any] | None = None,
    probabilities: ArrayLike | None = None,
    notes: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    magnitude: bool = False,
    scale: str = "percentile",
    title: str | None = None,
) -> Figure:
    """Draw series as curves over their saliency maps: a row for each series, a column per method.

    The colour behind a curve is the map's value at that step, scaled for each map separately as in
    `saliency_grid`: from white to red, or, for methods with negative values, from blue below zero
    to red above. Up to three channels share one vertical axis; more are drawn one above the other.

    Args:
        path: The PNG file to write; None writes none.
        series: [n, T] or [n, T, C].
        maps: {name of a method: its raw maps [n, T′]}, stretched over the series where T′ ≠ T.
        labels, predictions, probabilities, notes: See `saliency_grid`.
        channels: The names of the C channels.
        magnitude, scale: See `saliency_grid`.
        title: A line above the figure.

    Returns:
        The figure, which a notebook shows.

    Raises:
        ArgumentError: Shapes do not fit, a value is NaN or infinite, or an option does not exist.
        ImportError: matplotlib is not installed.
    """
    values = finite(series, "series")
    values = values[..., np.newaxis] if values.ndim == 2 else values
    if values.ndim != 3 or 0 in values.shape:
        raise ArgumentError(f"series: got shape {np.shape(series)}; expected [n, T] or [n, T, C].")
    count, steps, depth = values.shape
    if channels is not None and len(channels) != depth:
        raise ArgumentError(
            f"channels: got {len(channels)} names; expected one for each of {depth}."
        )
    one_of("scale", scale, SCALES)
    drawn = {
        name: coloured(
            _rows(given, name, count, magnitude)[:, np.newaxis], scale=scale, sequential=_PALE
        )
        for name, given in maps.items()
    }
    captions = Captions(labels, predictions, probabilities, notes, count)
    columns = max(len(drawn), 1)
    high = 1.2 if depth <= _APART else 0.5 + 0.28 * depth
    size = (0.9 + 3.0 * columns, (0.6 if title else 0.3) + 0.3 + high * count)
    figure = new_figure(size, layout="constrained")
    grid = figure.subplots(count, columns, sharex=True, sharey="row", squeeze=False)
    for i in range(count):
        lines, shift = _curves(values[i])
        low, top = lines.min(), lines.max()
        margin = 0.06 * ((top - low) or 1.0)
        for j, axes in enumerate(grid[i]):
            axes.set_xlim(-0.5, steps - 0.5)
            axes.set_ylim(low - margin, top + margin)
            if drawn:
                name = list(drawn)[j]
                extent = (-0.5, steps - 0.5, low - margin, top + margin)
                colours = _OPACITY * drawn[name][i] + (1 - _OPACITY)
                axes.imshow(colours, extent=extent, aspect="auto", interpolation="nearest")
                if i == 0:
                    axes.set_title(name, fontsize=9)
            for c in range(depth):
                together = depth <= _APART
                shade, style = (_SHADES[c], _STYLES[c]) if together else ("black", "-")
                axes.plot(lines[:, c], color=shade, linestyle=style, linewidth=1.0)
            axes.tick_params(labelsize=7)
            if depth > _APART:
                axes.set_yticks(shift, channels or [str(c) for c in range(depth)])
        if captions.text(i):
            grid[i, 0].set_ylabel(
                captions.text(i),
                fontsize=8,
                color=captions.colour(i),
                rotation=0,
                ha="right",
                va="center",
            )
    if channels is not None and 1 < depth <= _APART:
        handles = grid[0, 0].lines
        figure.legend(handles, channels, loc="outside lower center", ncols=depth, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    return finished(figure, path)


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
    for name, given, wanted in (("features", features, width), ("rows", rows, count)):
        if given is not None and len(given) != wanted:
            raise ArgumentError(f"{name}: got {len(given)} names; expected {wanted}.")
    names = list(features) if features is not None else [str(k) for k in range(width)]
    size = (1.2 + 2.4 * len(found), 0.7 + count * (0.3 + 0.18 * min(width, _NAMED + 8)))
    figure = new_figure(size, layout="constrained")
    grid = figure.subplots(count, len(found), sharey=True, sharex="col", squeeze=False)
    for j, (name, values) in enumerate(found.items()):
        for i, axes in enumerate(grid[:, j]):
            signs = np.where(values[i] < 0, "#2166ac", "#b2182b")
            axes.barh(np.arange(width), values[i], color=signs, height=0.8)
            axes.axvline(0, color="0.5", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=7)
            if i == 0:
                axes.set_title(name, fontsize=9)
            if j == 0 and rows is not None:
                axes.set_ylabel(rows[i], fontsize=8)
    step = -(-width // (_NAMED + 8))
    grid[0, 0].set_yticks(np.arange(0, width, step), names[::step])
    grid[0, 0].set_ylim(width - 0.5, -0.5)
    if title:
        figure.suptitle(title, fontsize=11)
    return finished(figure, path)


def _rows(given: ArrayLike, name: str, count: int, magnitude: bool) -> np.ndarray:
    """The maps of a method as [count, T′]."""
    found = finite(given, f"maps[{name!r}]")
    if found.ndim != 2 or len(found) != count or not found.shape[1]:
        raise ArgumentError(f"maps[{name!r}]: got shape {found.shape}; expected [{count}, T].")
    return np.abs(found) if magnitude else found


def _curves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curves [T, C], one above the other if there are many, and their heights of zero."""
    depth = values.shape[1]
    if depth <= _APART:
        return values, np.zeros(depth)
    middle = values.mean(0)
    spread = np.ptp(values, axis=0).max() or 1.0
    shift = -1.1 * spread * np.arange(depth)
    return values - middle + shift, shift
