"""Grids of images and their saliency maps, with captions of classes and predictions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures.canvas import finite
from tfgrad.figures.captions import Captions
from tfgrad.figures.colouring import SCALES, SEQUENTIAL, coloured, laid_over, stretched
from tfgrad.figures.image_grids import grid
from tfgrad.figures.outlines import masks
from tfgrad.internal.arguments import one_of

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure


def saliency_grid(
    path: str | os.PathLike[str] | None,
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
    regions: ArrayLike | None = None,
    title: str | None = None,
) -> Figure:
    """Draw images beside their saliency maps: one row for each image, one column for each method.

    Each map is scaled separately: values from 0 to its 99th percentile run from dark to bright; a
    method with negative values is drawn around 0, blue below and red above, up to the 99th
    percentile of the absolute value. Colours are therefore comparable within a map, not between
    images or methods. The papers' figures are `magnitude=True, scale="minmax", sequential="gray"`.

    Args:
        path: The PNG file to write; None writes none.
        images: [n, H, W, C] with 1 or 3 channels, or [n, H, W], values in 0 to 1. Images of other
            ranges are stretched, all alike.
        maps: {name of a method: its raw maps [n, H', W']}. A method is signed if any of its values
            is negative.
        labels: The true classes.
        predictions: The predicted classes; with labels, a row's text is green where they agree and
            red where they do not.
        probabilities: Probabilities of the predicted classes, [n].
        notes: Additional lines of each row's text.
        magnitude: Whether signed maps are drawn by their absolute values.
        scale: The range from dark to bright of a map without negative values: `"percentile"`, from
            0 to the 99th percentile; `"contrast"`, from the minimum to the 99th percentile; or
            `"minmax"`, from the minimum to the maximum.
        sequential: The colours of maps without negative values: "inferno", "magma", "viridis" or
            "gray".
        overlay: Opacity of the maps over the image in greys, up to 1; 0 draws maps without image.
        regions: Masks [n, h, w] of any size, above 0 in a region, such as that of a
            `tfgrad.targets.Region`: outlined on the images and the maps.
        title: A line above the grid.

    Returns:
        The figure, which a notebook shows.

    Raises:
        ArgumentError: Shapes do not fit, a value is NaN or infinite, or an option does not exist.
        ImportError: matplotlib is not installed.
    """
    pixels = pixels_of(images)
    one_of("scale", scale, SCALES)
    one_of("sequential", sequential, SEQUENTIAL)
    if not 0 <= overlay <= 1:
        raise ArgumentError(f"overlay: got {overlay}; expected an opacity in 0 to 1.")
    shown = None if regions is None else masks(regions, "regions", (len(pixels),), "H, W")
    drawn = {}
    for name, given in maps.items():
        values = map_values(given, name, len(pixels))
        values = np.abs(values) if magnitude else values
        drawn[name] = coloured(values, scale=scale, sequential=sequential)
        if overlay:
            pairs = zip(drawn[name], pixels, strict=True)
            drawn[name] = [laid_over(colours, image, overlay) for colours, image in pairs]
    texts = Captions(labels, predictions, probabilities, notes, len(pixels))
    captions = [texts.text(i) for i in range(len(pixels))]
    return grid(
        path,
        [[image, *(m[i] for m in drawn.values())] for i, image in enumerate(pixels)],
        columns=["image", *drawn],
        captions=captions if any(captions) else None,
        colours=[texts.colour(i) for i in range(len(pixels))] if any(captions) else None,
        outlines=None if shown is None else list(shown),
        title=title,
    )


def pixels_of(images: ArrayLike) -> np.ndarray:
    """The images as [n, H, W, C] in 0 to 1."""
    pixels = finite(images, "images")
    if pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or not len(pixels):
        raise ArgumentError(
            f"images: got shape {np.shape(images)}; expected [n, H, W], or [n, H, W, C] with "
            "1 or 3 channels."
        )
    return stretched(pixels)


def map_values(values: ArrayLike, name: str, count: int) -> np.ndarray:
    """The maps of a method as [count, H, W]."""
    found = finite(values, f"maps[{name!r}]")
    if found.ndim == 4 and found.shape[-1] == 1:
        found = found[..., 0]
    if found.ndim != 3 or len(found) != count:
        raise ArgumentError(
            f"maps[{name!r}]: got shape {found.shape}; expected [{count}, H, W]. "
            "Sum a gradient over its channels first."
        )
    return found
