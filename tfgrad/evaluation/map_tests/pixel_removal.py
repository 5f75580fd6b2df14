"""Maps that rank pixels, and the pixels that are replaced: what every test by removal shares."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation.batches import Placed, channel_axis, image_size
from tfgrad.internal.arguments import one_of
from tfgrad.internal.precision import at_least_float32
from tfgrad.internal.stateless_noise import Draws

RANDOM, IMAGE_MEAN = "random", "image_mean"


def checked_fractions(fractions: Iterable[float]) -> tuple[float, ...]:
    """The fractions as floats.

    Raises:
        ArgumentError: there is none, or one is not in [0, 1].
    """
    if isinstance(fractions, str) or not isinstance(fractions, Iterable):
        raise ArgumentError(
            f"fractions: got {fractions!r}; expected several numbers in [0, 1], e.g. (0.1, 0.5)."
        )
    found = tuple(float(fraction) for fraction in fractions)
    if not found or not all(0 <= fraction <= 1 for fraction in found):
        raise ArgumentError(f"fractions: got {list(found)}; expected numbers in [0, 1].")
    return found


def checked_maps(maps: Any) -> Any:
    """A function of (images, labels), an array or what is sliced like one, or the word `RANDOM`."""
    if isinstance(maps, str) and maps != RANDOM:
        raise ArgumentError(
            f"maps: got {maps!r}; expected a function of (images, labels), an array "
            f"[n, H, W], or {RANDOM!r}. tfgrad.saliency.get(name)(model) makes a function."
        )
    if isinstance(maps, Mapping):
        raise ArgumentError(
            f"maps: got a mapping of {list(maps)}; expected those of one method, a function of "
            "(images, labels) or an array [n, H, W]."
        )
    as_it_is = isinstance(maps, str) or callable(maps) or hasattr(maps, "shape")
    return maps if as_it_is else np.asarray(maps)


def mapped(batches: Iterator[Placed], maps: Any, seed: int) -> Iterator[Placed]:
    """Batches ((images, maps), labels, the first one's index), maps made as they are read.

    Maps come in their own floating type, whole numbers in float64; see `finite_maps`.
    """
    read = 0
    for x, y, first in batches:
        expected = (x.shape[0], *image_size(x))
        read += x.shape[0]
        if isinstance(maps, str):
            found = Draws(0, first).normal(tf.gather(x, 0, axis=channel_axis()), 1, seed)[0]
        elif callable(maps):
            found = maps(x, y)
        else:
            found = maps[int(first) : read]
        found = tf.convert_to_tensor(found)
        if tuple(found.shape) != expected:
            raise ArgumentError(
                f"maps: got shape {tuple(found.shape)} for images {tuple(x.shape)}; expected "
                f"{expected}. An array needs a map for every image; sum a gradient over its "
                "channels first."
            )
        yield (x, comparable(found)), y, first
    if not isinstance(maps, str) and not callable(maps) and len(maps) != read:
        raise ArgumentError(f"maps: got {len(maps)} for {read} images; expected one each.")


def comparable(maps: Any) -> tf.Tensor:
    """Maps as a tensor of their own floating type, whole numbers in float64."""
    maps = tf.convert_to_tensor(maps)
    return maps if maps.dtype.is_floating else tf.cast(maps, tf.float64)


def finite_maps(maps: tf.Tensor) -> tf.Tensor:
    """Which maps [batch, H, W] are finite, so that they rank pixels: bool [batch]."""
    return tf.reduce_all(tf.math.is_finite(maps), [1, 2])


def constant_maps(maps: tf.Tensor) -> tf.Tensor:
    """Which maps [batch, H, W] have one value everywhere: bool [batch]."""
    return tf.equal(tf.reduce_max(maps, [1, 2]), tf.reduce_min(maps, [1, 2]))


def left_out(finite: np.ndarray, whose: str = "maps") -> int:
    """How many images are not counted because their map ranks nothing.

    Args:
        finite: of `finite_maps`, for every image in order.
        whose: what messages call the maps.

    Warns:
        UserWarning: there are some; it names the first.

    Raises:
        DataError: no image is left.
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
            stacklevel=3,
        )
    return count


def ranks(values: tf.Tensor) -> tf.Tensor:
    """The position of each pixel in ascending order: int32 [batch, H, W].

    Among equal values a random order decides, the same for all images and at any time. Reading
    order would take whole blocks of a map with many zeros, and so show what blocks are worth.
    """
    pixels = int(np.prod(values.shape[1:]))
    shuffled = np.random.default_rng(0).permutation(pixels)
    flat = tf.reshape(values, [tf.shape(values)[0], pixels])
    order = tf.argsort(tf.gather(flat, shuffled, axis=1), stable=True)
    found = tf.gather(tf.argsort(order), np.argsort(shuffled), axis=1)
    return tf.reshape(found, tf.shape(values))


def filling(x: tf.Tensor, fill: Any) -> tf.Tensor:
    """What replaces pixels of the images, to be broadcast."""
    sides = [axis for axis in (1, 2, 3) if axis != channel_axis()]
    channels = x.shape[channel_axis()]
    if isinstance(fill, str):
        one_of("fill", fill, (IMAGE_MEAN,))
        # A sum over a large image leaves the range of float16.
        return tf.cast(tf.reduce_mean(at_least_float32(x), sides, keepdims=True), x.dtype)
    value = np.asarray(fill)
    if value.dtype.kind not in "iuf" or not np.isfinite(value).all():
        raise ArgumentError(f"fill: got {fill!r}; expected {IMAGE_MEAN!r} or finite numbers.")
    if value.shape not in ((), (1,), (channels,)):
        raise ArgumentError(
            f"fill: got shape {value.shape}; expected one number, or one for each of the "
            f"{channels} channels."
        )
    return tf.cast(np.expand_dims(np.atleast_1d(value), [axis - 1 for axis in sides]), x.dtype)


def removed(x: tf.Tensor, rank: tf.Tensor, count: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Images whose `count` lowest-ranked pixels are replaced, all channels of a pixel at once.

    Args:
        x: images [batch, H, W, C].
        rank: of `ranks`, int32 [batch, H, W].
        count: how many pixels, int32, a number or [batch, 1, 1].
        value: of `filling`.
    """
    return tf.where(tf.expand_dims(rank < count, channel_axis()), value, x)


def pixels_in(fraction: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """round(fraction · pixels), halves up: int32."""
    return tf.cast(tf.math.floor(fraction * tf.cast(pixels, tf.float64) + 0.5), tf.int32)


def ranked(maps: Any) -> np.ndarray:
    """The `ranks` of maps [n, H, W] of a whole data set, read a thousand at a time.

    Returns:
        [n, H, W], the smallest unsigned integers that hold H·W.
    """
    found = np.empty(maps.shape, np.min_scalar_type(int(np.prod(maps.shape[1:]))))
    for rows in _thousands(maps):
        found[rows] = ranks(comparable(maps[rows])).numpy()
    return found


def finite_rows(maps: Any) -> np.ndarray:
    """Which maps of a whole data set [n, H, W] are finite, read a thousand at a time: bool [n]."""
    return _rows(maps, finite_maps)


def constant_rows(maps: Any) -> np.ndarray:
    """Which maps of a whole data set [n, H, W] are constant and rank nothing: bool [n]."""
    return _rows(maps, constant_maps)


def check_varying(constant: int, count: int, whose: str = "maps") -> None:
    """Refuse maps that are all constant.

    Raises:
        DataError: they are.
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
