"""One split of a classification set of images, series or volumes, in memory."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import DataError
from tfgrad.internal.arguments import integer

_FORMS = {
    1: "[n, time, channels]",
    2: "[n, height, width, channels]",
    3: "[n, depth, height, width, channels]",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a classification set of images, series or volumes, in memory.

    Attributes:
        images: Array [n, height, width, channels], uint8 as stored or float32 in [0, 1]; or series
            [n, time, channels], volumes [n, depth, height, width, channels], whose floats may have
            any range.
        labels: Array [n] int32, indices into `classes`.
        classes: The names of the classes.
        name: The set's name.
        split: The split's name.
        positions: Number of axes between examples and channels: 2 for images, 1 for series, 3 for
            volumes.

    Raises:
        DataError: On construction: an array has the wrong rank, type or length, pixels are NaN,
            infinite or out of range, labels are one-hot or outside the classes.
    """

    images: np.ndarray = dataclasses.field(repr=False)
    labels: np.ndarray = dataclasses.field(repr=False)
    classes: tuple[str, ...]
    name: str
    split: str
    positions: int = 2

    def __post_init__(self) -> None:
        _check_images(self.images, self.name, integer("positions", self.positions))
        _check_labels(self.labels, len(self.images), len(self.classes), self.name)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[Any, ...]:
        """(height, width, channels), or the shape of a series or a volume."""
        return tuple(self.images.shape[1:])

    @functools.cached_property
    def tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Images and labels as eager tensors on the CPU, made once for all streams.

        A stream's functions capture them, which tf.data passes on by reference. As constants of a
        graph they would be copied, which fails at 2 GB.
        """
        with tf.device("CPU:0"):
            return tf.convert_to_tensor(self.images), tf.convert_to_tensor(self.labels)


def _check_images(images: np.ndarray, name: str, positions: int) -> None:
    shape = images.shape
    if images.ndim != positions + 2:
        expected = _FORMS.get(positions, f"{positions} axes between examples and channels")
        hint = " For one channel, pass images[..., None]." if images.ndim == positions + 1 else ""
        if positions == 2:
            hint += " Series have positions=1, volumes positions=3."
        raise DataError(f"images: got shape {shape} in {name!r}; expected {expected}.{hint}")
    if 0 in shape:
        raise DataError(f"images: got the empty shape {shape} in {name!r}; expected images.")
    if images.dtype not in (np.uint8, np.float32):
        raise DataError(
            f"images: got {images.dtype} in {name!r}; expected uint8 in [0, 255] or float32"
            f"{' in [0, 1]' if positions == 2 else ''}."
        )
    if images.dtype == np.uint8:
        return
    # Minimum and maximum propagate NaN and need no mask as large as the images.
    low, high = float(images.min()), float(images.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        first = next(i for i, image in enumerate(images) if not np.isfinite(image).all())
        raise DataError(
            f"images: got NaN or infinite pixels in {name!r}, first in image {first}; expected "
            f"finite values{' in [0, 1]' if positions == 2 else ''}."
        )
    if positions == 2 and (low < 0.0 or high > 1.0):
        raise DataError(
            f"images: got pixels in [{low:g}, {high:g}] in {name!r}; expected float pixels in "
            "[0, 1]. Divide pixels in [0, 255] by 255, and leave normalisation to `pipeline`."
        )


def _check_labels(labels: np.ndarray, examples: int, classes: int, name: str) -> None:
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise DataError(
            f"labels: got shape {labels.shape} in {name!r}, as of one-hot labels; expected class "
            "indices [n]. Pass np.argmax(labels, axis=-1)."
        )
    if labels.ndim != 1:
        hint = " Pass labels[:, 0]." if labels.ndim == 2 else ""
        raise DataError(
            f"labels: got shape {labels.shape} in {name!r}; expected one index per image, [n]."
            f"{hint}"
        )
    if labels.dtype != np.int32:
        raise DataError(
            f"labels: got {labels.dtype} in {name!r}; expected int32. Try `from_arrays`, which "
            "converts any integer type."
        )
    if len(labels) != examples:
        raise DataError(
            f"labels: got {len(labels)} in {name!r}; expected {examples}, one per image."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"labels: got {low} to {high} in {name!r}; expected 0 to {classes - 1}, the indices of "
            f"its {classes} classes."
        )


def from_arrays(
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    split: str = "train",
    *,
    positions: int = 2,
) -> Dataset:
    """Wrap arrays as a `Dataset`.

    Args:
        images: Array [n, height, width, channels], uint8, or floating point in [0, 1]; or series
            or volumes, see `positions`.
        labels: Array [n] of any integer type.
        classes: The names of the classes; by default "0", "1", … up to the largest label.
        name: The set's name in error messages.
        split: The split's name.
        positions: Number of axes between examples and channels: 1 for series [n, time, channels],
            3 for volumes [n, depth, height, width, channels]. Their floats may have any range.

    Returns:
        The data set; arrays that already have the stored type are not copied.

    Raises:
        DataError: As for `Dataset`.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if np.issubdtype(images.dtype, np.floating):
        images = images.astype(np.float32, copy=False)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels: got {labels.dtype} in {name!r}; expected integer class indices.")
    if labels.size and (labels.max() > np.iinfo(np.int32).max or labels.min() < 0):
        raise DataError(
            f"labels: got {labels.min()} to {labels.max()} in {name!r}; expected class indices "
            "from 0 up."
        )
    labels = labels.astype(np.int32, copy=False)
    if classes is None:
        classes = [str(k) for k in range(int(labels.max()) + 1 if labels.size else 0)]
    return Dataset(images, labels, tuple(classes), name, split, positions)


def subset(dataset: Dataset, per_class: int, seed: int) -> Dataset:
    """Draw the same number of examples of every class, without replacement.

    With the same seed, a smaller subset is contained in a larger one.

    Args:
        dataset: The data set to draw from.
        per_class: Number of examples of each class, an integer ≥ 1.
        seed: Seed of the draw, an integer ≥ 0.

    Returns:
        per_class × classes examples, in the order of `dataset`.

    Raises:
        ArgumentError: `per_class` or `seed` is no such integer.
        DataError: A class has fewer examples.
    """
    integer("per_class", per_class, lowest=1)
    integer("seed", seed, lowest=0)
    chosen = []
    for label, class_name in enumerate(dataset.classes):
        members = np.flatnonzero(dataset.labels == label)
        if len(members) < per_class:
            raise DataError(
                f"per_class: got {per_class}; expected at most {len(members)}, the number of "
                f"examples of class {class_name!r} of {dataset.name!r} ({dataset.split}). Lower "
                "per_class or load a larger split."
            )
        random = np.random.default_rng([seed, label])
        chosen.append(random.permutation(members)[:per_class])
    indices = np.sort(np.concatenate(chosen))
    return dataclasses.replace(
        dataset, images=dataset.images[indices], labels=dataset.labels[indices]
    )


def channel_statistics(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The mean and standard deviation of each channel, over pixels scaled to [0, 1].

    Take them from the training split and pass them to every `pipeline`, the test split's included.

    Args:
        dataset: The training split.

    Returns:
        (mean, std), each [channels] float32. A constant channel gets std 1, so that normalising it
        gives zeros.
    """
    scale = 255.0 if dataset.images.dtype == np.uint8 else 1.0
    channels = dataset.image_shape[-1]
    total, squares = np.zeros(channels), np.zeros(channels)
    for start in range(
        0, len(dataset), 64
    ):  # Few at a time, so that the float64 copy fits in the cache.
        pixels = dataset.images[start : start + 64].reshape(-1, channels)
        values = np.ascontiguousarray(pixels.T).astype(np.float64) / scale
        total += values.sum(axis=1)
        squares += np.einsum("ij,ij->i", values, values)
    count = math.prod(dataset.images.shape[:-1])
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 0.0))
    # Rounding leaves a constant channel with a tiny standard deviation instead of 0.
    std = np.where(std < 1e-6, 1.0, std)
    return mean.astype(np.float32), std.astype(np.float32)
