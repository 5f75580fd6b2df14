"""Arrays to pictures. The only importer of matplotlib, and only when a picture is drawn.

Every function writes one PNG, under a temporary name first, so that a viewer or a crash never
sees half a file. Figures are built as objects: the caller's backend, styles and open figures in
`matplotlib.pyplot` are left alone, and no display is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures.canvas import MAX_BYTES as MAX_BYTES
from tfgrad.figures.canvas import finite, new_figure, write
from tfgrad.figures.curves_and_bars import bars as bars
from tfgrad.figures.curves_and_bars import curves as curves
from tfgrad.figures.curves_and_bars import functions as functions
from tfgrad.figures.curves_and_bars import history as history

_RIGHT, _WRONG = "#1a7f37", "#c62828"
SEQUENTIAL = ("inferno", "magma", "viridis", "gray")
SCALES = ("percentile", "contrast", "minmax")
_DIVERGING = "RdBu_r"
_CELL = 1.25  # inches
_CHARACTER, _CAPTION = 0.072, 28  # inches a character of a caption takes; characters in a line
_HEADING = 17, 22  # characters above a column, and the most, in smaller letters
_PERCENTILE = 99.0  # one hot pixel must not darken the rest of its map


def grid(
    path: str | os.PathLike[str],
    rows: Sequence[Sequence[ArrayLike]],
    *,
    columns: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    title: str | None = None,
) -> str:
    """Draw a grid of pictures.

    Args:
        path: the PNG to write.
        rows: rows of pictures of any sizes: [H, W, 3], [H, W, 1] or [H, W] greyscale, values in
            0 to 1 (what is outside is clipped).
        columns: a heading for each column.
        captions: a text left of each row; lines are separated by a newline.
        colours: a colour for each caption.
        title: a line above all.

    Returns:
        The path.

    Raises:
        ArgumentError: the rows differ in length, a picture has another shape or is not finite, or
            the path cannot be written.
        ImportError: matplotlib is not installed.
    """
    pictures = [
        [_picture(p, f"rows[{i}][{j}]") for j, p in enumerate(r)] for i, r in enumerate(rows)
    ]
    if not pictures or not pictures[0] or len({len(row) for row in pictures}) > 1:
        raise ArgumentError(
            f"rows: got rows of {[len(row) for row in pictures]} pictures, expected equal lengths."
        )
    height, width = len(pictures), len(pictures[0])
    for name, given, expected in (
        ("columns", columns, width),
        ("captions", captions, height),
        ("colours", colours, height),
    ):
        if given is not None and len(given) != expected:
            raise ArgumentError(f"{name}: got {len(given)} for {expected} in the grid.")

    texts = [_fitted(caption, _CAPTION) for caption in captions or ()]
    longest = max((len(line) for text in texts for line in text.split("\n")), default=0)
    left = longest * _CHARACTER + 0.2 if texts else 0.08
    top = 0.08 + (0.2 if columns else 0) + (0.24 if title else 0)
    size = (left + width * _CELL + 0.05, top + height * _CELL + 0.05)
    figure = new_figure(size)
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            # Placed in inches from the upper left corner, as a layout engine would only guess.
            x, y = left + j * _CELL, top + i * _CELL
            axes = figure.add_axes(
                (
                    x / size[0],
                    1 - (y + _CELL - 0.06) / size[1],
                    (_CELL - 0.06) / size[0],
                    (_CELL - 0.06) / size[1],
                )
            )
            axes.imshow(picture, interpolation="nearest", cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
            if i == 0 and columns is not None:
                heading = _fitted(columns[j], _HEADING[1])
                size_of_it = 9 * min(1.0, _HEADING[0] / max(len(heading), 1))
                axes.set_title(heading, fontsize=size_of_it, pad=4)
        if texts:
            figure.text(
                (left - 0.1) / size[0],
                1 - (top + (i + 0.5) * _CELL - 0.03) / size[1],
                texts[i],
                ha="right",
                va="center",
                fontsize=8,
                color=colours[i] if colours is not None else "black",
                linespacing=1.5,
            )
    if title:
        figure.text(0.5, 1 - 0.06 / size[1], title, ha="center", va="top", fontsize=11)
    return write(figure, path)


def saliency_grid(
    path: str | os.PathLike[str],
    images: ArrayLike,
    maps: Mapping[str, ArrayLike],
    *,
    labels: Sequence[Any] | None = None,
    predictions: Sequence[Any] | None = None,
    probabilities: ArrayLike | None = None,
    notes: Sequence[str] | None = None,
    magnitude: bool = False,
    scale: str = "percentile",
    sequential: str = "inferno",
    overlay: float = 0.0,
    title: str | None = None,
) -> str:
    """Draw images beside their saliency maps, one row an image and one column a method.

    Each map is scaled by itself: values from 0 to its 99th percentile run from dark to bright; a
    method with negative values is shown around 0, blue below and red above, up to the 99th
    percentile of the absolute value. Colours therefore compare places, not images or methods.
    The papers' pictures are `magnitude=True, scale="minmax", sequential="gray"`.

    Args:
        path: the PNG to write.
        images: [n, H, W, C] with 1 or 3 channels, or [n, H, W]; values in 0 to 1. Other ranges are
            stretched, all images alike.
        maps: a method's name to its maps [n, H', W'], raw. A map is signed if the method gave any
            negative value in the batch.
        labels: the true classes.
        predictions: the predicted classes; a row's text is green where they agree, else red.
        probabilities: the predicted classes' probabilities, [n].
        notes: further lines of each row's text.
        magnitude: whether signed maps are drawn by their absolute values.
        scale: what runs from dark to bright in a map without signs: `"percentile"`, from 0 to the
            99th percentile; `"contrast"`, from the minimum to there; or `"minmax"`, from the
            minimum to the maximum.
        sequential: the colours of maps without signs: "inferno", "magma", "viridis" or "gray".
        overlay: 0 draws maps alone; up to 1, their opacity over the image in greys.
        title: a line above all.

    Returns:
        The path.

    Raises:
        ArgumentError: shapes do not fit, a value is NaN or infinite, or an option is none.
        ImportError: matplotlib is not installed.
    """
    pixels = finite(images, "images")
    if pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or not len(pixels):
        raise ArgumentError(
            f"images: got shape {np.shape(images)}, expected [n, H, W], or [n, H, W, C] with "
            "1 or 3 channels."
        )
    pixels = _stretched(pixels)
    for option, value, known in (
        ("scale", scale, SCALES),
        ("sequential", sequential, SEQUENTIAL),
    ):
        if value not in known:
            raise ArgumentError(f"{option}: got {value!r}, expected one of {known}.")
    if not 0 <= overlay <= 1:
        raise ArgumentError(f"overlay: got {overlay}, expected an opacity in 0 to 1.")
    drawn = {}
    for name, values in maps.items():
        values = finite(values, f"maps[{name!r}]")
        if values.ndim == 4 and values.shape[-1] == 1:
            values = values[..., 0]
        if values.ndim != 3 or len(values) != len(pixels):
            raise ArgumentError(
                f"maps[{name!r}]: got shape {values.shape}, expected [{len(pixels)}, H, W]. "
                "Sum a gradient over its channels first."
            )
        drawn[name] = _coloured(
            np.abs(values) if magnitude else values, scale=scale, sequential=sequential
        )
        if overlay:
            pairs = zip(drawn[name], pixels, strict=True)
            drawn[name] = [_laid_over(colours, image, overlay) for colours, image in pairs]
    for name, given in (
        ("labels", labels),
        ("predictions", predictions),
        ("probabilities", probabilities),
        ("notes", notes),
    ):
        if given is not None and np.shape(given) != (len(pixels),):
            raise ArgumentError(
                f"{name}: got shape {np.shape(given)}, expected one for each of "
                f"{len(pixels)} images."
            )

    captions, colours = [], []
    for i in range(len(pixels)):
        lines = [] if labels is None else [f"true: {labels[i]}"]
        if predictions is not None:
            lines.append(f"predicted: {predictions[i]}")
        if probabilities is not None:
            lines.append(f"p = {np.asarray(probabilities)[i]:.2f}")
        if notes is not None:
            lines.append(notes[i])
        captions.append("\n".join(lines))
        if labels is None or predictions is None:
            colours.append("black")
        else:
            colours.append(_RIGHT if labels[i] == predictions[i] else _WRONG)
    return grid(
        path,
        [[image, *(m[i] for m in drawn.values())] for i, image in enumerate(pixels)],
        columns=["image", *drawn],
        captions=captions if any(captions) else None,
        colours=colours if any(captions) else None,
        title=title,
    )


def _picture(values: ArrayLike, name: str) -> np.ndarray:
    array = finite(values, name)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)):
        raise ArgumentError(f"{name}: got shape {array.shape}, expected [H, W] or [H, W, 1 or 3].")
    return np.clip(array, 0, 1)


def _stretched(images: np.ndarray) -> np.ndarray:
    low, high = images.min(), images.max()
    if low >= 0 and high <= 1:
        return images
    return (images - low) / max(high - low, np.finfo(np.float64).tiny)


def _coloured(
    values: np.ndarray, *, scale: str = "percentile", sequential: str = "inferno"
) -> list[np.ndarray]:
    """Maps [n, H, W] to n pictures [H, W, 3]."""
    try:
        from matplotlib import colormaps
    except ImportError:
        new_figure((1, 1))  # says what to install
        raise
    signed = bool((values < 0).any())
    pictures = []
    for one in values:
        low = 0.0 if signed or scale == "percentile" else one.min()
        high = (
            one.max()
            if not signed and scale == "minmax"
            else np.percentile(np.abs(one), _PERCENTILE)
        )
        bound = (high - low) or np.abs(one).max() or 1.0  # a sparse map, an empty one
        scaled = np.clip((one - low) / bound, -1, 1)
        colours = (
            colormaps[_DIVERGING]((scaled + 1) / 2) if signed else colormaps[sequential](scaled)
        )
        pictures.append(colours[..., :3])
    return pictures


def _laid_over(colours: np.ndarray, image: np.ndarray, opacity: float) -> np.ndarray:
    """A coloured map over the image in greys, at the image's size."""
    height, width = image.shape[:2]
    rows = np.arange(height) * colours.shape[0] // height
    columns = np.arange(width) * colours.shape[1] // width
    grey = image.mean(-1, keepdims=True)
    return opacity * colours[rows][:, columns] + (1 - opacity) * grey


def _fitted(text: str, width: int) -> str:
    """A line cut to a width in characters, so that names of ImageNet do not run into pictures."""
    return "\n".join(
        line if len(line) <= width else f"{line[: width - 1]}…" for line in text.split("\n")
    )
