"""Grids of pictures with headings and captions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures.canvas import finished, finite, new_figure
from tfgrad.figures.outlines import draw as draw_outline
from tfgrad.figures.outlines import masks

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

CELL = 1.25  # inches from one picture to the next
GAP = 0.06  # inches between pictures
CHARACTER, CAPTION = 0.072, 28  # inches per character of a caption; characters per line
_HEADING = 17, 22  # characters above a column at full font size, and at most


def grid(
    path: str | os.PathLike[str] | None,
    rows: Sequence[Sequence[ArrayLike]],
    *,
    columns: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    outlines: Sequence[ArrayLike | None] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a grid of pictures.

    Args:
        path: The PNG file to write; None writes none.
        rows: Rows of pictures of any sizes: [H, W, 3], [H, W, 1] or [H, W] in grey, values in 0 to
            1; values outside are clipped.
        columns: A heading for each column.
        captions: A text to the left of each row; newlines separate its lines.
        colours: A colour for each caption.
        outlines: For each row a mask [h, w] whose region is outlined on its pictures, or None.
        title: A line above the grid.

    Returns:
        The figure, which a notebook shows.

    Raises:
        ArgumentError: The rows differ in length, a picture has another shape or is not finite, or
            the path cannot be written.
        ImportError: matplotlib is not installed.
    """
    pictures = [
        [_picture(p, f"rows[{i}][{j}]") for j, p in enumerate(r)] for i, r in enumerate(rows)
    ]
    if not pictures or not pictures[0] or len({len(row) for row in pictures}) > 1:
        raise ArgumentError(
            f"rows: got rows of {[len(row) for row in pictures]} pictures; expected equal lengths "
            "≥ 1."
        )
    height, width = len(pictures), len(pictures[0])
    for name, given, expected, each in (
        ("columns", columns, width, "column"),
        ("captions", captions, height, "row"),
        ("colours", colours, height, "row"),
        ("outlines", outlines, height, "row"),
    ):
        if given is not None and len(given) != expected:
            raise ArgumentError(f"{name}: got {len(given)}; expected {expected}, one per {each}.")

    shown = [
        None if mask is None else masks(mask, f"outlines[{i}]", (), "h, w")
        for i, mask in enumerate(outlines or [None] * height)
    ]
    texts = [fitted(caption, CAPTION) for caption in captions or ()]
    longest = max((len(line) for text in texts for line in text.split("\n")), default=0)
    left = longest * CHARACTER + 0.2 if texts else 0.08
    top = 0.08 + (0.2 if columns else 0) + (0.24 if title else 0)
    headings = [fitted(column, _HEADING[1]) for column in columns or ()]
    font = 9 * min(1.0, _HEADING[0] / max((*map(len, headings), 1)))  # the same for all
    size = (left + width * CELL + 0.05, top + height * CELL + 0.05)
    side = CELL - GAP
    figure = new_figure(size)
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            axes = placed_axes(figure, left + j * CELL, top + i * CELL, side, side)
            axes.imshow(picture, interpolation="nearest", cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
            if (mask := shown[i]) is not None:
                draw_outline(axes, mask, picture.shape[:2])
            if i == 0 and headings:
                axes.set_title(headings[j], fontsize=font, pad=4, parse_math=False)
        if texts:
            figure.text(
                (left - 0.1) / size[0],
                1 - (top + (i + 0.5) * CELL - 0.03) / size[1],
                texts[i],
                ha="right",
                va="center",
                fontsize=8,
                color=colours[i] if colours is not None else "black",
                linespacing=1.5,
                parse_math=False,
            )
    if title:
        figure.text(0.5, 1 - 0.06 / size[1], title, ha="center", va="top", fontsize=11)
    return finished(figure, path)


def placed_axes(figure: Figure, x: float, y: float, width: float, height: float) -> Any:
    """Axes at a place in inches from the upper left corner; a layout engine would estimate it."""
    size = figure.get_size_inches()
    return figure.add_axes(
        (x / size[0], 1 - (y + height) / size[1], width / size[0], height / size[1])
    )


def _picture(values: ArrayLike, name: str) -> np.ndarray:
    array = finite(values, name)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)):
        raise ArgumentError(f"{name}: got shape {array.shape}; expected [H, W] or [H, W, 1 or 3].")
    return np.clip(array, 0, 1)


def fitted(text: str, width: int) -> str:
    """Lines cut to a width in characters, so that long class names do not overlap pictures."""
    return "\n".join(
        line if len(line) <= width else f"{line[: width - 1]}…" for line in text.split("\n")
    )
