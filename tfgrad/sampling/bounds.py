"""Bounds of pixel values: numbers or arrays that broadcast against an image."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.models import pixel_range

Limits = tuple[np.ndarray, np.ndarray] | None


def limits(bounds: Any, shape: tuple[int, ...]) -> Limits:
    """(lowest, highest) as arrays that broadcast against an image; None stays None.

    Raises:
        ArgumentError: The bounds are no such pair, do not fit the image, or are not in order.
    """
    if bounds is None:
        return None
    try:
        low, high = bounds
    except (TypeError, ValueError):
        raise ArgumentError(
            f"bounds: got {bounds!r}; expected (lowest, highest), or None to clip nothing."
        ) from None
    low, high = broadcast("bounds", low, shape), broadcast("bounds", high, shape)
    if not np.all(low < high):
        raise ArgumentError(f"bounds: got {bounds!r}; expected the lowest below the highest.")
    return low, high


def broadcast(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A finite float64 array that broadcasts against an image.

    Args:
        name: Name of the argument, for the message.
        value: The argument: a number or an array.
        shape: The shape of one image.

    Raises:
        ArgumentError: The value is not numeric or not finite, or does not broadcast.
    """
    try:
        array = np.asarray(value)
        fits = np.broadcast_shapes(array.shape, shape) == tuple(shape)
    except ValueError:
        fits = False
    if not fits or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise ArgumentError(
            f"{name}: got {value!r}; expected a finite number, or an array of them that broadcasts "
            f"against an image {tuple(shape)}, such as one per channel."
        )
    return array.astype(np.float64)


def warn_of_range(network: keras.Model, limits: Limits) -> None:
    """Warn if a network takes pixels of another scale than samples are clipped to."""
    if limits is not None:
        low, high = float(limits[0].min()), float(limits[1].max())
        pixel_range.warn_of_scale(network, "bounds", low, high, stacklevel=6)


def check_inside(name: str, images: np.ndarray, limits: Limits) -> None:
    """Reject images that clipping would change by more than float32 rounding.

    Raises:
        ArgumentError: A pixel lies outside the bounds.
    """
    if limits is None:
        return
    low, high = limits
    slack = 1e-6 * (high - low)
    if np.all(images >= low - slack) and np.all(images <= high + slack):
        return
    raise ArgumentError(
        f"{name}: got pixels from {images.min():g} to {images.max():g}, which bounds "
        f"{low.tolist()} to {high.tolist()} would cut off; expected pixels within them. Scale the "
        "images, or pass the values that black and white have for the model as bounds."
    )


def clipped(x: tf.Tensor, limits: Limits) -> tf.Tensor:
    """x within the bounds, in its own dtype."""
    if limits is None:
        return x
    low, high = (tf.cast(limit, x.dtype) for limit in limits)
    return tf.clip_by_value(x, low, high)
