"""Images that a sampler starts from: Gaussian noise, or given images with noise added."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.internal.arguments import integer, number
from tfgrad.internal.stateless_noise import Draws
from tfgrad.sampling.bounds import Limits, broadcast, check_inside, clipped, limits

# Streams of one seed: a start image must not use the random numbers of a sampler's steps.
STEPS, _NOISE, _NOISED = range(3)

# Number of pixels drawn at a time, as drawing takes about twelve times the memory of the result.
_PART = 2**20


def noise(
    count: int,
    shape: tuple[int, ...],
    seed: int = 0,
    mean: Any = 0.5,
    deviation: float = 0.2,
    bounds: Any = (0.0, 1.0),
) -> np.ndarray:
    """Start images of Gaussian pixels, clipped: float32 [count, *shape].

    Args:
        count: Number of images; those of a smaller count are the first of a larger one.
        shape: The shape of one image.
        seed: Seed of the noise, integer ≥ 0.
        mean: Mean of the pixels, like `centre` of `gradient_ascent`.
        deviation: Standard deviation of the pixels before clipping, > 0.
        bounds: (lowest, highest), or None to clip nothing.

    Raises:
        ArgumentError: An argument is out of its range.
    """
    count, seed = integer("count", count), integer("seed", seed, lowest=0)
    shape = _image_shape(shape)
    middle = broadcast("mean", mean, shape).astype(np.float32)
    sigma, within = number("deviation", deviation), limits(bounds, shape)
    return _perturbed(np.broadcast_to(middle, (count, *shape)), sigma, within, seed, _NOISE)


def noised(images: Any, sigma: float = 0.1, seed: int = 0, bounds: Any = (0.0, 1.0)) -> np.ndarray:
    """Images with Gaussian noise added, clipped: the start of "denoising".

    Not for padded sequences: padding gets noise, too, which a network's `Masking` no longer hides.

    Args:
        images: Float images [n, …] within `bounds`.
        sigma: Standard deviation of the noise in the units of the images, > 0.
        seed: Seed of the noise, integer ≥ 0; the noise of image i depends on (seed, i) only.
        bounds: (lowest, highest), or None to clip nothing.

    Returns:
        Shaped and typed like the images.

    Raises:
        ArgumentError: The images are not floats or lie outside the bounds, or a number is out of
            its range.
        DataError: An image holds NaN or infinite pixels.

    Source: preprint §4.2.1.
    """
    x = float_images("images", images)
    within = limits(bounds, x.shape[1:])
    check_inside("images", x, within)
    sigma, seed = number("sigma", sigma), integer("seed", seed, lowest=0)
    return _perturbed(x, sigma, within, seed, _NOISED)


def float_images(name: str, images: Any) -> np.ndarray:
    """Images [n, …] of finite floats as an array.

    Args:
        name: Name of the argument, for the message.
        images: The argument.

    Raises:
        ArgumentError: The images are no array of floats, lack the batch axis, or there are none.
        DataError: An image holds NaN or infinite pixels.
    """
    try:
        x = np.asarray(images)
    except ValueError as error:
        raise ArgumentError(
            f"{name}: got a {type(images).__name__} that is no array; expected float images [n, …] "
            "of one size."
        ) from error
    if not np.issubdtype(x.dtype, np.floating):
        raise ArgumentError(
            f"{name}: got {x.dtype} images; expected float ones, scaled as in training; try "
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


def _image_shape(shape: Any) -> tuple[int, ...]:
    try:
        sizes = tuple(shape)
    except TypeError:
        sizes = ()
    if not sizes:
        raise ArgumentError(
            f"shape: got {shape!r}; expected the sizes of one image, such as (32, 32, 3)."
        )
    return tuple(integer("shape", size) for size in sizes)


def _perturbed(
    images: np.ndarray, sigma: float, within: Limits, seed: int, stream: int
) -> np.ndarray:
    """Images with independent Gaussian noise added, clipped, in their own dtype."""
    result = np.empty(images.shape, images.dtype)
    size = max(1, _PART // math.prod(images.shape[1:]))
    for first in range(0, len(images), size):
        x = tf.constant(images[first : first + size])
        z = Draws(offset=first).normal(x, 1, seed, stream)[0]
        result[first : first + size] = clipped(x + sigma * z, within)
    return result
