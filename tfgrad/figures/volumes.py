"""Volumes as slices beside their saliency maps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures.canvas import finished, finite, new_figure
from tfgrad.figures.captions import Captions
from tfgrad.figures.colouring import SCALES, SEQUENTIAL, coloured, laid_over, stretched
from tfgrad.figures.image_grids import CELL, CHARACTER, GAP, fitted, placed_axes
from tfgrad.figures.outlines import draw as draw_outline
from tfgrad.figures.outlines import masks
from tfgrad.internal.arguments import integer, one_of

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

_MARK = "#e0a800"  # the frame of the most salient slice
_HEADING = 0.2  # inches above the slices of a volume
_LONGEST = 22  # characters of a row's text


def saliency_slices(
    path: str | os.PathLike[str] | None,
    volumes: ArrayLike,
    maps: Mapping[str, ArrayLike],
    *,
    slices: int = 6,
    labels: Sequence[Any] | None = None,
    predictions: Sequence[Any] | None = None,
    probabilities: ArrayLike | None = None,
    notes: Sequence[str] | None = None,
    magnitude: bool = False,
    scale: str = "percentile",
    sequential: str = "inferno",
    overlay: float = 0.0,
    regions: ArrayLike | None = None,
    title: str | None = None,
) -> Figure:
    """Draw slices of volumes above those of their saliency maps.

    Every volume is a row of slices, with a row for each method below. Drawn are slices at equal
    distances, and in the place of the nearest of them the most salient slice of each method, by Σ
    abs over the slice; in the rows of maps that slice has a frame. A map is scaled over its whole
    volume, as `saliency_grid` scales a map, so that its slices can be compared.

    Args:
        path: The PNG file to write; None writes none.
        volumes: [n, D, H, W], or [n, D, H, W, C] with 1 or 3 channels, values in 0 to 1. Volumes of
            other ranges are stretched, all alike.
        maps: {name of a method: its raw maps [n, D, H, W]}.
        slices: Number of slices that are drawn of each volume, at most.
        labels, predictions, probabilities, notes: See `saliency_grid`.
        magnitude, scale, sequential, overlay: See `saliency_grid`.
        regions: Masks [n, D, h, w], above 0 in a region, which is outlined in every slice.
        title: A line above the figure.

    Returns:
        The figure, which a notebook shows.

    Raises:
        ArgumentError: Shapes do not fit, a value is NaN or infinite, or an option does not exist.
        ImportError: matplotlib is not installed.
    """
    voxels = _voxels(volumes)
    one_of("scale", scale, SCALES)
    one_of("sequential", sequential, SEQUENTIAL)
    integer("slices", slices)
    if not 0 <= overlay <= 1:
        raise ArgumentError(f"overlay: got {overlay}; expected an opacity in 0 to 1.")
    shape = voxels.shape[:2]
    outlined = None if regions is None else masks(regions, "regions", shape, "H, W")
    found = {
        name: _map_values(given, name, voxels.shape, magnitude) for name, given in maps.items()
    }
    colours = {name: _coloured(values, scale, sequential) for name, values in found.items()}
    captions = Captions(labels, predictions, probabilities, notes, len(voxels))
    shown = [
        _chosen([m[i] for m in found.values()], voxels.shape[1], slices) for i in range(len(voxels))
    ]

    names = [fitted(name, _LONGEST) for name in found]
    texts = [captions.text(i) or "volume" for i in range(len(voxels))]
    longest = max(len(line) for text in (*names, *texts) for line in text.split("\n"))
    left = longest * CHARACTER + 0.2
    block = _HEADING + (1 + len(found)) * CELL
    top = 0.08 + (0.24 if title else 0)
    width = max(len(chosen) for chosen in shown)
    figure = new_figure((left + width * CELL + 0.05, top + block * len(voxels) + 0.05))
    side = CELL - GAP
    for i, chosen in enumerate(shown):
        start = top + i * block + _HEADING
        rows = [voxels[i], *(colours[name][i] for name in found)]
        for row, (text, pictures) in enumerate(zip((texts[i], *names), rows, strict=True)):
            y = start + row * CELL
            most = None if not row else _most(found[list(found)[row - 1]][i])
            for column, place in enumerate(chosen):
                picture = pictures[place]
                if row and overlay:
                    picture = laid_over(picture, voxels[i, place], overlay)
                axes = placed_axes(figure, left + column * CELL, y, side, side)
                axes.imshow(picture, interpolation="nearest", cmap="gray", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                if outlined is not None:
                    draw_outline(axes, outlined[i, place], picture.shape[:2])
                axes.spines[:].set(visible=place == most, color=_MARK, linewidth=2.5)
                if not row:
                    axes.set_title(f"slice {place}", fontsize=8, pad=3)
            inches = figure.get_size_inches()
            figure.text(
                (left - 0.1) / inches[0],
                1 - (y + side / 2) / inches[1],
                text,
                ha="right",
                va="center",
                fontsize=8,
                color="black" if row else captions.colour(i),
                linespacing=1.5,
                parse_math=False,
            )
    if title:
        height = figure.get_size_inches()[1]
        figure.text(0.5, 1 - 0.06 / height, title, ha="center", va="top", fontsize=11)
    return finished(figure, path)


def _most(values: np.ndarray) -> int:
    """The slice with the largest Σ abs."""
    return int(np.abs(values).sum((1, 2)).argmax())


def _chosen(maps: Sequence[np.ndarray], depth: int, count: int) -> list[int]:
    """The slices that are drawn of a volume."""
    chosen = [int(place) for place in np.linspace(0, depth - 1, min(count, depth)).round()]
    kept: list[int] = []
    for values in maps:
        most = _most(values)
        if most not in chosen and len(kept) < len(chosen):
            free = [place for place in chosen if place not in kept]
            chosen[chosen.index(min(free, key=lambda place: abs(place - most)))] = most
        kept.append(most)
    return sorted(chosen)


def _voxels(volumes: ArrayLike) -> np.ndarray:
    """The volumes as [n, D, H, W, C] in 0 to 1."""
    found = finite(volumes, "volumes")
    if found.ndim == 4:
        found = found[..., np.newaxis]
    if found.ndim != 5 or found.shape[-1] not in (1, 3) or 0 in found.shape:
        raise ArgumentError(
            f"volumes: got shape {np.shape(volumes)}; expected [n, D, H, W], or [n, D, H, W, C] "
            "with 1 or 3 channels."
        )
    return stretched(found)


def _map_values(given: ArrayLike, name: str, shape: tuple[int, ...], magnitude: bool) -> np.ndarray:
    """The maps of a method as [n, D, H, W]."""
    found = finite(given, f"maps[{name!r}]")
    if found.ndim != 4 or found.shape[:2] != shape[:2] or 0 in found.shape:
        raise ArgumentError(
            f"maps[{name!r}]: got shape {found.shape}; expected [{shape[0]}, {shape[1]}, H, W]."
        )
    return np.abs(found) if magnitude else found


def _coloured(values: np.ndarray, scale: str, sequential: str) -> np.ndarray:
    """The maps as pictures [n, D, H, W, 3], each scaled over its volume."""
    count, depth, height, width = values.shape
    flat = values.reshape(count, depth * height, width)
    pictures = coloured(flat, scale=scale, sequential=sequential)
    return np.reshape(pictures, (count, depth, height, width, 3))
