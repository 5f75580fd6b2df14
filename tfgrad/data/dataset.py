"""Labelled images in memory, and the streams of batches that training and evaluation read.

A `Dataset` holds one split as arrays: the embedded 8×8 digits, any image classification set of
TensorFlow Datasets (TFDS), or the caller's own arrays. `pipeline` turns it into a
`tf.data.Dataset` whose every batch is a function of (seed, epoch, position) alone.
"""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.internal.arguments import integer, is_integer

DIGITS = "digits"
_DIGITS_TEST_EXAMPLES = 360


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """One split of an image classification set, in memory.

    Attributes:
        images: [n, height, width, channels], uint8 as stored or float32 in [0, 1].
        labels: [n] int32, indices into `classes`.
        classes: the names of the classes.
        name: the set's name.
        split: the split's name.

    Raises:
        DataError: on construction, for a wrong rank, type or length, NaN, infinite or out-of-range
            pixels, one-hot labels, and labels outside the classes.
    """

    images: np.ndarray = dataclasses.field(repr=False)
    labels: np.ndarray = dataclasses.field(repr=False)
    classes: tuple[str, ...]
    name: str
    split: str

    def __post_init__(self) -> None:
        _check_images(self.images, self.name)
        _check_labels(self.labels, len(self.images), len(self.classes), self.name)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @functools.cached_property
    def tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Images and labels as eager tensors on the CPU, made once for all streams.

        A stream's functions capture them, which tf.data passes on by reference. As constants of a
        graph they would be copied, and fail at 2 GB.
        """
        with tf.device("CPU:0"):
            return tf.convert_to_tensor(self.images), tf.convert_to_tensor(self.labels)


def _check_images(images: np.ndarray, name: str) -> None:
    shape = images.shape
    if images.ndim != 4:
        hint = "; for one channel, pass images[..., None]" if images.ndim == 3 else ""
        raise DataError(
            f"images of {name!r} have shape {shape}; expected [n, height, width, channels]{hint}."
        )
    if 0 in shape:
        raise DataError(f"images of {name!r} are empty: shape {shape}.")
    if images.dtype not in (np.uint8, np.float32):
        raise DataError(
            f"images of {name!r} are {images.dtype}; expected uint8 in [0, 255] or float32 in "
            "[0, 1]."
        )
    if images.dtype == np.uint8:
        return
    # Minimum and maximum carry any NaN along and need no mask as large as the images.
    low, high = float(images.min()), float(images.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        first = next(i for i, image in enumerate(images) if not np.isfinite(image).all())
        raise DataError(
            f"images of {name!r} hold NaN or infinite pixels, first in image {first}; "
            "expected finite values in [0, 1]."
        )
    if low < 0.0 or high > 1.0:
        raise DataError(
            f"images of {name!r} lie in [{low:g}, {high:g}]; expected float pixels in [0, 1]. "
            "Divide pixels in [0, 255] by 255, and leave normalisation to `pipeline`."
        )


def _check_labels(labels: np.ndarray, examples: int, classes: int, name: str) -> None:
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise DataError(
            f"labels of {name!r} look one-hot: shape {labels.shape}; expected class indices [n]. "
            "Pass np.argmax(labels, axis=-1)."
        )
    if labels.ndim != 1:
        hint = " Pass labels[:, 0]." if labels.ndim == 2 else ""
        raise DataError(
            f"labels of {name!r} have shape {labels.shape}; expected one index per image, [n]."
            f"{hint}"
        )
    if labels.dtype != np.int32:
        raise DataError(
            f"labels of {name!r} are {labels.dtype}; expected int32 (`from_arrays` converts any "
            "integer type)."
        )
    if len(labels) != examples:
        raise DataError(f"{name!r} has {examples} images but {len(labels)} labels.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"labels of {name!r} span {low} to {high}, but its {classes} classes are numbered 0 to "
            f"{classes - 1}."
        )


def from_arrays(
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    split: str = "train",
) -> Dataset:
    """Wrap arrays as a `Dataset`.

    Args:
        images: [n, height, width, channels], uint8, or floating point in [0, 1].
        labels: [n], any integer type.
        classes: the names of the classes; by default "0", "1", … up to the largest label.
        name: what error messages call the set.
        split: the split's name.

    Returns:
        The data set; arrays that already have the stored type are not copied.

    Raises:
        DataError: see `Dataset`.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if np.issubdtype(images.dtype, np.floating):
        images = images.astype(np.float32, copy=False)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels of {name!r} are {labels.dtype}; expected integer class indices.")
    if labels.size and (labels.max() > np.iinfo(np.int32).max or labels.min() < 0):
        raise DataError(
            f"labels of {name!r} span {labels.min()} to {labels.max()}; expected class indices "
            "from 0."
        )
    labels = labels.astype(np.int32, copy=False)
    if classes is None:
        classes = [str(k) for k in range(int(labels.max()) + 1 if labels.size else 0)]
    return Dataset(images, labels, tuple(classes), name, split)


def load(
    name: str = DIGITS,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    image_size: tuple[int, int] | None = None,
) -> Dataset:
    """Load one split of a data set into memory.

    Args:
        name: "digits", the 1,797 UCI digits that scikit-learn ships (8×8×1, float32, 1,437 to
            train and 360 to test, stratified), or the TFDS name of an image classification set
            ("mnist", "cifar10", "tf_flowers", …; uint8), which needs `pip install tfgrad[data]`.
        split: "train", "test", any other split of a TFDS set, or a slice such as "train[:1000]" or
            "train[80%:]".
        data_dir: the TFDS data directory; by default TFDS's own.
        download: whether TFDS may download and prepare a set that is not in `data_dir`.
        image_size: (height, width) to resize every image to (bilinear, antialiased), for sets
            whose photos vary in size and for networks that need larger images.

    Returns:
        The split, in the set's stored order.

    Raises:
        ArgumentError: for a malformed `image_size`.
        DataError: when the set or split is unknown, is not prepared, is no image classification
            set, varies in size, cannot be read, or does not fit in memory.
    """
    if image_size is not None and (
        not isinstance(image_size, (tuple, list))
        or len(image_size) != 2
        or not all(is_integer(side) and side > 0 for side in image_size)
    ):
        raise ArgumentError(
            f"image_size={image_size!r} must be two positive integers, (height, width)."
        )
    if name != DIGITS:
        from tfgrad.data import tfds

        return Dataset(*tfds.read(name, split, data_dir, download, image_size), name, split)
    images, labels = _digits(split)
    if image_size is not None:
        resized = tf.image.resize(images, image_size, antialias=True).numpy()
        images = np.clip(resized, 0.0, 1.0)
    return Dataset(images, labels, tuple("0123456789"), DIGITS, split)


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    match = re.fullmatch(r"(train|test)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if match is None:
        raise DataError(
            f"split={split!r} is unknown for 'digits'; choose 'train', 'test' or a slice such as "
            "'train[:100]' or 'train[:80%]'."
        )
    from sklearn.datasets import load_digits  # Slow to import, and only needed here.

    digits = load_digits()
    labels = digits.target.astype(np.int32)
    # Stratified: shuffle each class, spread its examples evenly over [0, 1) and let the test split
    # take the lowest positions. RandomState's stream is frozen for good, unlike Generator's.
    random = np.random.RandomState(0)
    position = np.empty(len(labels))
    for label in range(10):
        members = random.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.argsort(position, kind="stable")
    chosen = order[:_DIGITS_TEST_EXAMPLES]
    if match[1] == "train":
        chosen = order[_DIGITS_TEST_EXAMPLES:]
    chosen = np.sort(chosen)
    bounds = [_slice_bound(text, len(chosen)) for text in match.groups()[1:]]
    if any(bound is not None and abs(bound) > len(chosen) for bound in bounds):
        raise DataError(
            f"split={split!r} of 'digits' reaches beyond its {len(chosen)} {match[1]} examples."
        )
    chosen = chosen[slice(*bounds)]
    if not len(chosen):
        raise DataError(f"split={split!r} of 'digits' is empty.")
    return (digits.images[chosen, ..., None] / 16.0).astype(np.float32), labels[chosen]


def _slice_bound(text: str | None, length: int) -> int | None:
    if text is None:
        return None
    if text.endswith("%"):
        return round(int(text[:-1]) * length / 100)  # TFDS rounds to the nearest example too.
    return int(text)


def subset(dataset: Dataset, per_class: int, seed: int) -> Dataset:
    """Draw the same number of examples of every class, without replacement.

    With one seed, a smaller subset is contained in a larger one.

    Args:
        dataset: where to draw from.
        per_class: how many examples of each class.
        seed: which subset.

    Returns:
        per_class × classes examples, in the order of `dataset`.

    Raises:
        ArgumentError: unless `per_class` is a positive integer and `seed` a non-negative one.
        DataError: when a class has fewer examples.
    """
    integer("per_class", per_class, lowest=1)
    integer("seed", seed, lowest=0)
    chosen = []
    for label, class_name in enumerate(dataset.classes):
        members = np.flatnonzero(dataset.labels == label)
        if len(members) < per_class:
            raise DataError(
                f"class {class_name!r} of {dataset.name!r} ({dataset.split}) has {len(members)} "
                f"examples; per_class={per_class} wants more. Lower per_class or load a larger "
                "split."
            )
        random = np.random.default_rng([seed, label])
        chosen.append(random.permutation(members)[:per_class])
    indices = np.sort(np.concatenate(chosen))
    return dataclasses.replace(
        dataset, images=dataset.images[indices], labels=dataset.labels[indices]
    )


def channel_statistics(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and standard deviation of each channel, over pixels scaled to [0, 1].

    Take them from the training split and pass them to every `pipeline`, the test split's included.

    Args:
        dataset: the training split.

    Returns:
        (mean, std), each [channels] float32. A constant channel gets std 1, so that normalising it
        gives zeros.
    """
    scale = 255.0 if dataset.images.dtype == np.uint8 else 1.0
    channels = dataset.image_shape[-1]
    total, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(dataset), 64):  # Few at a time: the float64 copy stays in the cache.
        pixels = dataset.images[start : start + 64].reshape(-1, channels)
        values = np.ascontiguousarray(pixels.T).astype(np.float64) / scale
        total += values.sum(axis=1)
        squares += np.einsum("ij,ij->i", values, values)
    count = math.prod(dataset.images.shape[:3])
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 0.0))
    # Rounding leaves a constant channel with a tiny deviation instead of none.
    std = np.where(std < 1e-6, 1.0, std)
    return mean.astype(np.float32), std.astype(np.float32)
