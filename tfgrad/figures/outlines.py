"""Outlines of regions over pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures.canvas import finite

# White on black is visible on every colour.
_STROKES = (("black", 2.4), ("white", 1.0))


def masks(given: ArrayLike, name: str, lead: tuple[int, ...], axes: str) -> np.ndarray:
    """Masks as booleans.

    Args:
        given: Masks with the leading axes `lead`, 0 outside of the region and above 0 in it.
        name: Name of the argument, for messages.
        lead: The first axes.
        axes: Names of the others, such as "H, W".

    Raises:
        ArgumentError: The shape is another one, or a value is negative or not finite.
    """
    found = finite(given, name)
    rank = len(lead) + len(axes.split(","))
    if found.ndim != rank or found.shape[: len(lead)] != lead or 0 in found.shape:
        expected = ", ".join([*map(str, lead), axes])
        raise ArgumentError(
            f"{name}: got shape {found.shape}; expected masks [{expected}], above 0 in the region; "
            "try one mask for each example."
        )
    if found.min() < 0:
        raise ArgumentError(
            f"{name}: got values down to {found.min():g}; expected 0 outside of a region and "
            "values above 0 in it."
        )
    return found > 0


def draw(axes: Any, mask: ArrayLike, size: tuple[int, int]) -> None:
    """Draw the outline of a mask over a picture, along the edges of the mask's cells.

    Args:
        axes: Axes that show the picture.
        mask: Booleans [h, w] of any size.
        size: Height and width of the picture in pixels.
    """
    inside = np.asarray(mask)
    x, y = edges(inside)
    scale = size[1] / inside.shape[1], size[0] / inside.shape[0]
    axes.autoscale(False)
    for colour, width in _STROKES:
        axes.plot(
            x * scale[0] - 0.5,
            y * scale[1] - 0.5,
            color=colour,
            linewidth=width,
            solid_capstyle="projecting",
            clip_on=False,
        )


def edges(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The edges between cells in and out of a mask [h, w] as one line x, y with NaN between runs.

    Coordinates are those of the corners of cells, from 0 to w and to h. Straight edges are one run.
    """
    lines = []
    for turned in (mask, mask.T):
        padded = np.pad(turned.astype(np.int8), 1)
        between = padded[:, 1:] != padded[:, :-1]  # an edge at x between two cells of row y − 1
        ends = np.diff(between.astype(np.int8), axis=0)  # padded rows are empty
        x, start = np.nonzero((ends == 1).T)
        _, stop = np.nonzero((ends == -1).T)
        gap = np.full(len(x), np.nan)
        along = np.stack([start, stop, gap], 1).ravel()
        across = np.stack([x, x, gap], 1).ravel()
        lines.append((across, along) if turned is mask else (along, across))
    return np.concatenate([a for a, _ in lines]), np.concatenate([b for _, b in lines])
