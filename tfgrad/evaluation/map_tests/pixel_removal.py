"""Maps that rank pixels, and the replacement of pixels: shared by all tests by removal.

A pixel is a position of an input with all its channels: a step of a series, a voxel of a volume, a
feature of a table.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation.batches import check_finite
from tfgrad.gradients.axes import InputAxes
from tfgrad.internal.arguments import one_of
from tfgrad.internal.precision import at_least_float32

RANDOM, IMAGE_MEAN = "random", "image_mean"


def checked_fractions(fractions: Iterable[float]) -> tuple[float, ...]:
    """The fractions as floats.

    Raises:
        ArgumentError: There is none, or one is not in [0, 1].
    """
    if isinstance(fractions, str) or not isinstance(fractions, Iterable):
        raise ArgumentError(
            f"fractions: got {fractions!r}; expected several numbers in [0, 1], e.g. (0.1, 0.5)."
        )
    found = tuple(float(fraction) for fraction in fractions)
    if not found or not all(0 <= fraction <= 1 for fraction in found):
        raise ArgumentError(f"fractions: got {list(found)}; expected numbers in [0, 1].")
    return found


def comparable(maps: Any) -> tf.Tensor:
    """Maps as a tensor of their own floating type; integers become float64."""
    maps = tf.convert_to_tensor(maps)
    return maps if maps.dtype.is_floating else tf.cast(maps, tf.float64)


def finite_maps(maps: tf.Tensor) -> tf.Tensor:
    """Whether each map of [batch, …] is finite, so that it can rank pixels: bool [batch]."""
    return tf.reduce_all(tf.math.is_finite(maps), range(1, maps.shape.rank))


def constant_maps(maps: tf.Tensor, visible: tf.Tensor | None = None) -> tf.Tensor:
    """Whether each map of [batch, …] has one value everywhere: bool [batch].

    Args:
        maps: The maps.
        visible: Which values count, bool like the maps; None: all. A map of none is constant.
    """
    positions = range(1, maps.shape.rank)
    if visible is None:
        return tf.equal(tf.reduce_max(maps, positions), tf.reduce_min(maps, positions))
    high = tf.reduce_max(tf.where(visible, maps, maps.dtype.min), positions)
    return high <= tf.reduce_min(tf.where(visible, maps, maps.dtype.max), positions)


def left_out(finite: np.ndarray, whose: str = "maps", stacklevel: int = 3) -> int:
    """The number of images that are not counted because their map is not finite.

    Args:
        finite: Whether the map of each image is finite, bool [n]; see `finite_maps`.
        whose: The argument that messages name for the maps.
        stacklevel: Number of callers up to the one that the warning is attributed to.

    Warns:
        UserWarning: There are some; it names the first.

    Raises:
        DataError: No image is left.
    """
    count = int(np.sum(~finite))
    if count == len(finite):
        raise DataError(
            f"{whose}: all {count} hold NaN or infinite values, which rank nothing; expected "
            "finite ones. Look at the network's weights first."
        )
    if count:
        warnings.warn(
            f"{whose}: that of image {int(finite.argmin())} holds NaN or infinite values, as "
            f"{count} of {len(finite)} do; these images are left out.",
            UserWarning,
            stacklevel=stacklevel,
        )
    return count


def counted_rows(
    table: np.ndarray,
    finite: np.ndarray,
    whose: str = "maps",
    what: str = "logits",
    hint: str = "",
) -> tuple[np.ndarray, int]:
    """The results of the images with a finite map, and the number of the other images.

    Args:
        table: The results of all images, [n, …].
        finite: Whether the map of each image is finite, bool [n].
        whose: The argument that messages name for the maps.
        what: The noun that messages use for what was measured.
        hint: A further sentence of the message of what is not finite.

    Warns:
        UserWarning: An image is left out.

    Raises:
        DataError: No image is left.
        NonFiniteError: A result of the remaining images is NaN or infinite, as logits are.
    """
    missing = left_out(finite, whose, stacklevel=4)
    # Set to 0 and not yet dropped, so that the message counts images as the data set does.
    kept = np.where(finite.reshape(-1, *[1] * (table.ndim - 1)), table, 0)
    check_finite(kept, f"network: the {what}", hint)
    return table[finite], missing


def ranks(values: tf.Tensor) -> tf.Tensor:
    """The rank of each pixel in ascending order: int32, in the shape [batch, …] of the maps.

    Ties are broken by one random order, the same for all images and in all calls. Reading order
    would remove whole blocks of a map with many zeros, and so measure the effect of blocks.
    """
    pixels = int(np.prod(values.shape[1:]))
    shuffled = np.random.default_rng(0).permutation(pixels)
    flat = tf.reshape(values, [tf.shape(values)[0], pixels])
    order = tf.argsort(tf.gather(flat, shuffled, axis=1), stable=True)
    found = tf.gather(tf.argsort(order), np.argsort(shuffled), axis=1)
    return tf.reshape(found, tf.shape(values))


def filling(x: tf.Tensor, fill: Any, axes: InputAxes) -> tf.Tensor:
    """The values that replace pixels of the images, to be broadcast.

    Args:
        x: Images.
        fill: `IMAGE_MEAN`, a number, or one per channel.
        axes: The positions and channels of x.

    Raises:
        ArgumentError: `fill` does not fit the images.
    """
    sides = list(axes.positions)
    channels = 1 if axes.channels is None else x.shape[axes.channels]
    if isinstance(fill, str):
        one_of("fill", fill, (IMAGE_MEAN,))
        # A sum over a large image exceeds the range of float16.
        return tf.cast(tf.reduce_mean(at_least_float32(x), sides, keepdims=True), x.dtype)
    value = np.asarray(fill)
    if value.dtype.kind not in "iuf" or not np.isfinite(value).all():
        raise ArgumentError(f"fill: got {fill!r}; expected {IMAGE_MEAN!r} or finite numbers.")
    if value.shape not in ((), (1,), (channels,)):
        raise ArgumentError(
            f"fill: got shape {value.shape}; expected one number, or one for each of the "
            f"{channels} channels."
        )
    shape = [1 if axis + 1 in sides else -1 for axis in range(axes.rank - 1)]
    return tf.cast(value.reshape(shape), x.dtype)


def removed(
    x: tf.Tensor, rank: tf.Tensor, count: tf.Tensor, value: tf.Tensor, axes: InputAxes
) -> tf.Tensor:
    """Images whose `count` lowest-ranked pixels are replaced, all channels of a pixel at once.

    Args:
        x: Images [batch, …].
        rank: The ranks of the pixels, int32 [batch, *positions]; see `ranks`.
        count: Number of pixels, int32, a scalar or one that broadcasts against `rank`.
        value: The replacement; see `filling`.
        axes: The positions and channels of x.
    """
    gone = rank < count
    gone = gone if axes.channels is None else tf.expand_dims(gone, axes.channels)
    return tf.where(gone, value, x)


def pixels_in(fraction: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """round(fraction · pixels), with halves rounded up: int32."""
    return tf.cast(tf.math.floor(fraction * tf.cast(pixels, tf.float64) + 0.5), tf.int32)


def ranked(maps: Any) -> np.ndarray:
    """The `ranks` of the maps [n, …] of a whole data set, read a thousand at a time.

    Returns:
        [n, …], in the smallest unsigned integer type that holds the number of pixels.
    """
    found = np.empty(maps.shape, np.min_scalar_type(int(np.prod(maps.shape[1:]))))
    for rows in _thousands(maps):
        found[rows] = ranks(comparable(maps[rows])).numpy()
    return found


def finite_rows(maps: Any) -> np.ndarray:
    """`finite_maps` of a whole data set [n, …], read a thousand at a time: bool [n]."""
    return _rows(maps, finite_maps)


def constant_rows(maps: Any) -> np.ndarray:
    """`constant_maps` of a whole data set [n, …], read a thousand at a time: bool [n]."""
    return _rows(maps, constant_maps)


def check_varying(constant: int, count: int, whose: str = "maps") -> None:
    """Check that some maps rank pixels.

    Args:
        constant: Number of constant maps.
        count: Number of maps.
        whose: The argument that messages name for the maps.

    Raises:
        DataError: All maps are constant.
    """
    if constant == count:
        raise DataError(
            f"{whose}: all {constant} are constant, so they rank no pixel; expected maps that "
            "vary. Look at the gradients: a saturated or dead network has none."
        )


def _rows(maps: Any, function: Callable[[tf.Tensor], tf.Tensor]) -> np.ndarray:
    return np.concatenate([function(comparable(maps[rows])).numpy() for rows in _thousands(maps)])


def _thousands(maps: Any) -> Iterator[slice]:
    return (slice(start, start + 1000) for start in range(0, maps.shape[0], 1000))
