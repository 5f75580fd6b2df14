"""Series as curves over their saliency maps."""

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
from tfgrad.figures.outlines import masks
from tfgrad.internal.arguments import one_of

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

PALE, _OPACITY = "OrRd", 0.65  # curves are visible on it
_APART = 3  # number of channels up to which their curves share one axis
_SHADES = ("0.0", "0.35", "0.55")
_STYLES = ("-", "--", ":")
_REGION = 3.5  # width of the bar below a region, in points


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
    regions: ArrayLike | None = None,
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
        regions: Masks [n, t], above 0 in a region, stretched over the series: a bar below it.
        title: A line above the figure.

    Returns:
        The figure, which a notebook shows.

    Raises:
        ArgumentError: Shapes do not fit, a value is NaN or infinite, or an option does not exist.
        ImportError: matplotlib is not installed.
    """
    values = series_of(series)
    count, _, depth = values.shape
    if channels is not None and len(channels) != depth:
        raise ArgumentError(
            f"channels: got {len(channels)} names; expected one for each of {depth}."
        )
    one_of("scale", scale, SCALES)
    drawn = {
        name: coloured(
            map_rows(given, name, count, magnitude)[:, np.newaxis], scale=scale, sequential=PALE
        )
        for name, given in maps.items()
    }
    shown = None if regions is None else masks(regions, "regions", (count,), "T")
    captions = Captions(labels, predictions, probabilities, notes, count)
    columns = max(len(drawn), 1)
    high = 1.2 if depth <= _APART else 0.5 + 0.28 * depth
    size = (0.9 + 3.0 * columns, (0.6 if title else 0.3) + 0.3 + high * count)
    figure = new_figure(size, layout="constrained")
    grid = figure.subplots(count, columns, sharex=True, sharey="row", squeeze=False)
    for i in range(count):
        for j, axes in enumerate(grid[i]):
            name = list(drawn)[j] if drawn else None
            region = None if shown is None else shown[i]
            draw_series(axes, values[i], drawn[name][i] if name else None, region, channels)
            if i == 0 and name:
                axes.set_title(name, fontsize=9)
        if captions.text(i):
            grid[i, 0].set_ylabel(
                captions.text(i),
                fontsize=8,
                color=captions.colour(i),
                rotation=0,
                ha="right",
                va="center",
                parse_math=False,
            )
    if channels is not None and 1 < depth <= _APART:
        handles = grid[0, 0].lines
        figure.legend(handles, channels, loc="outside lower center", ncols=depth, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    return finished(figure, path)


def draw_series(
    axes: Any,
    values: np.ndarray,
    colours: np.ndarray | None,
    region: np.ndarray | None = None,
    channels: Sequence[str] | None = None,
) -> None:
    """Draw the curves of one series over the colours of its map.

    Args:
        axes: Empty axes.
        values: The series [T, C].
        colours: The colours of the map's steps, [1, T′, 3]; None for a series without map.
        region: Booleans [t], of steps below which there is a bar.
        channels: The names of the C channels.
    """
    steps, depth = values.shape
    lines, shift = _curves(values)
    low, top = lines.min(), lines.max()
    margin = 0.06 * ((top - low) or 1.0)
    axes.set_xlim(-0.5, steps - 0.5)
    axes.set_ylim(low - margin, top + margin)
    if colours is not None:
        extent = (-0.5, steps - 0.5, low - margin, top + margin)
        shades = _OPACITY * colours + (1 - _OPACITY)
        axes.imshow(shades, extent=extent, aspect="auto", interpolation="nearest")
    for c in range(depth):
        together = depth <= _APART
        shade, style = (_SHADES[c], _STYLES[c]) if together else ("black", "-")
        axes.plot(lines[:, c], color=shade, linestyle=style, linewidth=1.0)
    axes.tick_params(labelsize=7)
    if depth > _APART:
        axes.set_yticks(shift, channels or [str(c) for c in range(depth)])
    if region is not None:
        ends = np.diff(np.pad(region.astype(np.int8), 1))
        begin, end = (np.flatnonzero(ends == sign) * steps / len(region) - 0.5 for sign in (1, -1))
        axes.hlines(np.full(len(begin), low - margin), begin, end, "black", linewidth=_REGION)


def series_of(given: ArrayLike) -> np.ndarray:
    """The series as [n, T, C]."""
    values = finite(given, "series")
    values = values[..., np.newaxis] if values.ndim == 2 else values
    if values.ndim != 3 or 0 in values.shape:
        raise ArgumentError(f"series: got shape {np.shape(given)}; expected [n, T] or [n, T, C].")
    return values


def map_rows(given: ArrayLike, name: str, count: int, magnitude: bool) -> np.ndarray:
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
