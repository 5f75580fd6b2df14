"""Loads a data set by its name: the embedded digits, or any set of TensorFlow Datasets (TFDS)."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf

from tfgrad.data import digits
from tfgrad.data.dataset import Dataset
from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import is_integer


def load(
    name: str = digits.NAME,
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
        data_dir: The TFDS data directory; by default TFDS's own.
        download: Whether TFDS may download and prepare a set that is not in `data_dir`.
        image_size: (height, width) to which every image is resized (bilinear, antialiased), for
            sets whose photos vary in size and for networks that need larger images.

    Returns:
        The split, in the set's stored order.

    Raises:
        ArgumentError: `image_size` is malformed.
        DataError: The set or split is unknown, is not prepared, is no image classification set,
            varies in size, cannot be read, or does not fit in memory.
    """
    if image_size is not None and (
        not isinstance(image_size, (tuple, list))
        or len(image_size) != 2
        or not all(is_integer(side) and side > 0 for side in image_size)
    ):
        raise ArgumentError(
            f"image_size: got {image_size!r}; expected two integers ≥ 1, (height, width)."
        )
    if name != digits.NAME:
        from tfgrad.data import tfds

        return Dataset(*tfds.read(name, split, data_dir, download, image_size), name, split)
    images, labels = digits.read(split)
    if image_size is not None:
        resized = tf.image.resize(images, image_size, antialias=True).numpy()
        images = np.clip(resized, 0.0, 1.0)
    return Dataset(images, labels, digits.CLASSES, name, split)
