"""Loads a data set by its name: the digits, a folder, or a set of TensorFlow Datasets (TFDS)."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf

from tfgrad.data import digits, folders
from tfgrad.data.dataset import Dataset
from tfgrad.errors import ArgumentError, DataError
from tfgrad.internal.arguments import is_integer


def load(
    name: str | os.PathLike[str] = digits.NAME,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    image_size: tuple[int, int] | None = None,
) -> Dataset:
    """Load one split of a data set into memory.

    A folder of JPEG and PNG images has one of two layouts:

        FOLDER/CLASS/*.jpg                      splits "train", "test" and "all"
        FOLDER/{train,test,validation}/CLASS/*  splits of these names ("val", too) and "all"

    The classes are the names of the sub-folders, sorted. Without folders of splits, a fifth of each
    class, at least one image, is for the test: the images whose paths below the folder have the
    smallest SHA-256 digests. The choice does not depend on the order of the directory, and images
    that are added later move few of the others. The stored order is mixed: the first examples are
    one of each class, and a slice has all classes in the proportions of the split. Files are read
    as `tfgrad.images.read` does, within limits on bytes and pixels; hidden files and files that are
    no images are ignored.

    Args:
        name: "digits", the 1,797 UCI digits that scikit-learn ships (8×8×1, float32, 1,437 to
            train and 360 to test, stratified); the path of a folder of images with a sub-folder for
            each class (uint8, three channels); or the TFDS name of an image classification set
            ("mnist", "cifar10", "tf_flowers", …; uint8), which needs `pip install tfgrad[data]`. A
            folder with the name of a set of TFDS, or "digits", is meant by "./NAME".
        split: "train", "test", any other split of a TFDS set or folder, or a slice such as
            "train[:1000]" or "train[80%:]".
        data_dir: The TFDS data directory; by default TFDS's own.
        download: Whether TFDS may download and prepare a set that is not in `data_dir`.
        image_size: (height, width) to which every image is resized (bilinear, antialiased), for
            sets whose photos vary in size and for networks that need larger images.

    Returns:
        The split, in the set's stored order.

    Warns:
        ImagesLeftOutWarning: Images of a folder cannot be read, or lie in no folder of a class.

    Raises:
        ArgumentError: `image_size` is malformed.
        DataError: The set or split is unknown, is not prepared, is no image classification set,
            varies in size, cannot be read, or does not fit in memory; a folder has another layout,
            a class without images or a single class, or classes in a split that "train" lacks.
    """
    if image_size is not None and (
        not isinstance(image_size, (tuple, list))
        or len(image_size) != 2
        or not all(is_integer(side) and side > 0 for side in image_size)
    ):
        raise ArgumentError(
            f"image_size: got {image_size!r}; expected two integers ≥ 1, (height, width)."
        )
    if not isinstance(split, str):
        raise ArgumentError(f"split: got {split!r}; expected a name, such as 'train[:80%]'.")
    name = os.fspath(name)
    if is_folder(name, data_dir):
        return Dataset(*folders.read(name, split, image_size), name, split)
    if name != digits.NAME:
        from tfgrad.data import tfds

        return Dataset(*tfds.read(name, split, data_dir, download, image_size), name, split)
    images, labels = digits.read(split)
    if image_size is not None:
        resized = tf.image.resize(images, image_size, antialias=True).numpy()
        images = np.clip(resized, 0.0, 1.0)
    return Dataset(images, labels, digits.CLASSES, name, split)


def is_folder(name: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Whether a name that `load` takes means a folder of images.

    Args:
        name: See `load`.
        data_dir: The TFDS data directory; by default TFDS's own.

    Raises:
        DataError: It is written as a path, and leads to no folder.
    """
    name = os.fspath(name)
    path = os.path.expanduser(name)
    is_path = os.path.isabs(path) or name.startswith((".", "~"))
    if os.path.isdir(path):
        return is_path or not (name == digits.NAME or _in_tfds(name, data_dir))
    if os.path.exists(path) and (is_path or os.sep in name):
        raise DataError(
            f"name: got {name!r}, a file; expected a folder with a sub-folder of images for each "
            "class. Unpack an archive first."
        )
    if is_path:
        raise DataError(
            f"name: got {name!r}, which does not exist; expected a folder with a sub-folder of "
            "images for each class. Check the working directory."
        )
    return False


def _in_tfds(name: str, data_dir: str | os.PathLike[str] | None) -> bool:
    """Whether TFDS has a set of this name, by itself or in its directory."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        return False
    if name.partition("/")[0] in tfds.list_builders(with_community_datasets=False):
        return True
    return data_dir is not None and os.path.isdir(
        os.path.join(os.path.expanduser(data_dir), name, "")
    )
