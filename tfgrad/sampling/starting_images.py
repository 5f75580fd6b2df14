"""What a run can start from: images, the bounds that hold them, and their centre."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfgrad.errors import ArgumentError, DataError
from tfgrad.internal.arguments import integer

Limits = tuple[np.ndarray, np.ndarray] | None


def float_images(name: str, images: Any) -> np.ndarray:
    """[n, …] of finite floats, as a NumPy array."""
    try:
        x = np.asarray(images)
    except ValueError as error:
        raise ArgumentError(
            f"{name}: got a {type(images).__name__} that is no array; expected float images [n, …] "
            "of one size."
        ) from error
    if not np.issubdtype(x.dtype, np.floating):
        raise ArgumentError(
            f"{name}: got {x.dtype} images; expected float ones, scaled as in training. Try "
            "images.astype('float32') / 255."
        )
    if x.ndim < 2 or 0 in x.shape:
        raise ArgumentError(f"{name}: got shape {x.shape}; expected one image or more, [n, …].")
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{name}: image {int(finite.argmin())} of {len(x)} holds NaN or infinite pixels; "
            "expected finite ones. Look for a division by zero in the preprocessing."
        )
    return x


def image_shape(shape: Any) -> tuple[int, ...]:
    """The sizes of one image, at least one of them."""
    try:
        sizes = tuple(shape)
    except TypeError:
        sizes = ()
    if not sizes:
        raise ArgumentError(
            f"shape: got {shape!r}; expected the sizes of one image, such as (32, 32, 3)."
        )
    return tuple(integer("shape", size) for size in sizes)


def limits(bounds: Any, shape: tuple[int, ...]) -> Limits:
    """(lowest, highest) as arrays that broadcast against an image."""
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
    """A finite float array that broadcasts against an image."""
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


def check_inside(name: str, images: np.ndarray, limits: Limits) -> None:
    """Refuse images that clipping would change, up to float32's rounding."""
    if limits is None:
        return
    low, high = limits
    slack = 1e-6 * (high - low)
    if np.all(images >= low - slack) and np.all(images <= high + slack):
        return
    raise ArgumentError(
        f"{name}: got pixels from {images.min():g} to {images.max():g}, which bounds "
        f"{low.tolist()} to {high.tolist()} would cut off. Scale the images, or give the bounds "
        "that black and white have for the model."
    )
