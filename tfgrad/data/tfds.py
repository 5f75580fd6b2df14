"""Reads an image classification set of TensorFlow Datasets (TFDS) into arrays."""

import difflib
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import DataError

MEMORY_LIMIT = 4 * 2**30
_BATCH = 512


def read(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None,
    download: bool,
    image_size: tuple[int, int] | None,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Decode one split into memory.

    Args:
        name: the set's TFDS name.
        split: a TFDS split string.
        data_dir: the TFDS data directory, or None for TFDS's own.
        download: whether TFDS may fetch the set.
        image_size: (height, width) to resize to, or None.

    Returns:
        Images [n, height, width, channels] uint8, labels [n] int32 and the class names.

    Raises:
        DataError: see `tfgrad.data.load`.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"name={name!r} is read through tensorflow_datasets, which cannot be imported "
            f"({error}). Run `pip install tfgrad[data]`, or use name='digits'."
        ) from error

    if data_dir is not None:
        data_dir = os.path.expanduser(data_dir)
        if not download and not os.path.isdir(data_dir):
            raise DataError(
                f"data_dir={data_dir!r} is no directory. Give the TFDS data directory, or pass "
                "download=True to create it."
            )
    builder = _builder(tfds, name, data_dir)
    image_key, label_key = _features(tfds, builder.info, name)  # Before any download.
    _prepare(builder, name, download)
    count = _count(builder, name, split)
    image = builder.info.features[image_key]
    height, width, channels = image.shape
    if image_size is not None:
        height, width = image_size
    if None in (height, width):
        raise DataError(
            f"the images of {name!r} vary in size (shape {image.shape}); give image_size=(height, "
            "width) to resize them."
        )
    if image.np_dtype != np.uint8 or channels is None:
        raise DataError(
            f"the images of {name!r} are {np.dtype(image.np_dtype)} of shape {image.shape}; only "
            "uint8 with a fixed number of channels can be read."
        )
    size = count * height * width * channels
    if size > MEMORY_LIMIT:
        raise DataError(
            f"split={split!r} of {name!r} needs {size / 2**30:.1f} GiB in memory ({count} images "
            f"of {height}×{width}×{channels}), more than {MEMORY_LIMIT / 2**30:g} GiB. Take a "
            f"slice such as split='{split.partition('[')[0]}[:10000]', or a smaller image_size."
        )

    def decode(example):
        pixels = image.decode_example(example[image_key])
        if image_size is not None:
            pixels = tf.image.resize(pixels, image_size, antialias=True)
            pixels = tf.cast(tf.clip_by_value(tf.round(pixels), 0.0, 255.0), tf.uint8)
        return pixels, tf.cast(example[label_key], tf.int32)

    images = np.empty((count, height, width, channels), np.uint8)
    labels = np.empty(count, np.int32)
    filled = 0
    try:
        # TFDS would decode one image at a time; left encoded, they decode on every core.
        stream = builder.as_dataset(
            split=split, shuffle_files=False, decoders={image_key: tfds.decode.SkipDecoding()}
        )
        stream = stream.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        for pixels, targets in stream.batch(_BATCH).prefetch(2).as_numpy_iterator():
            images[filled : filled + len(targets)] = pixels
            labels[filled : filled + len(targets)] = targets
            filled += len(targets)
    except (tf.errors.OpError, OSError, ValueError) as error:
        raise DataError(
            f"split={split!r} of {name!r} in {builder.data_path} cannot be read after {filled} of "
            f"{count} examples: {_first_line(error)}. Prepare the set again if a file is damaged."
        ) from error
    if filled != count:
        raise DataError(
            f"split={split!r} of {name!r} in {builder.data_path} holds {filled} examples, its "
            f"dataset_info.json says {count}. Prepare the set again."
        )
    return images, labels, tuple(builder.info.features[label_key].names)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _builder(tfds: Any, name: str, data_dir: str | None) -> Any:
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = {"digits", *tfds.list_builders(with_community_datasets=False)}
        if data_dir is not None:
            known.update(path.name for path in Path(data_dir).glob("*") if path.is_dir())
        close = difflib.get_close_matches(name, sorted(known - {"digits"}), n=5)
        raise DataError(
            f"name={name!r} is no data set that TFDS knows. Close matches: "
            f"{', '.join(map(repr, close)) or 'none'}; 'digits' is always there."
        ) from error
    except Exception as error:  # TFDS raises whatever its configs and versions happen to.
        raise DataError(f"name={name!r} cannot be opened: {_first_line(error)}.") from error


def _prepare(builder: Any, name: str, download: bool) -> None:
    if builder.info.splits:
        return
    where = str(builder.data_path)
    if not download:
        raise DataError(
            f"{name!r} is not prepared: {where} holds no data. Point data_dir at a TFDS data "
            "directory that has it, or pass download=True."
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # Network, disc, checksum, missing package: all end the same way.
        raise DataError(
            f"{name!r} cannot be downloaded to {where}: {type(error).__name__}: "
            f"{_first_line(error)}. Check the network and that the directory can be written."
        ) from error


def _features(tfds: Any, info: Any, name: str) -> tuple[str, str]:
    """Return the names of the image and the label among the features."""
    features = info.features
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    # Where a set has two labels (CIFAR-100's fine and coarse), TFDS marks the one to learn.
    keys = info.supervised_keys
    if keys and len(keys) == 2 and all(isinstance(k, str) for k in keys):
        found: list[list[str]] = [[keys[0]], [keys[1]]]
    else:
        found = [[k for k in features if type(features[k]) is kind] for kind in kinds]
    image_keys, label_keys = found
    if not (
        len(image_keys) == len(label_keys) == 1
        and type(features[image_keys[0]]) is kinds[0]
        and type(features[label_keys[0]]) is kinds[1]
    ):
        have = ", ".join(f"{key}: {type(features[key]).__name__}" for key in features)
        raise DataError(
            f"{name!r} is no image classification set: expected one Image and one ClassLabel, "
            f"found {have}."
        )
    return image_keys[0], label_keys[0]


def _count(builder: Any, name: str, split: str) -> int:
    splits = builder.info.splits
    try:
        count = splits[split].num_examples
    except Exception as error:  # KeyError, ValueError or AssertionError, by what is wrong.
        counts = {key: splits[key].num_examples for key in sorted(splits)}
        names = list(counts)
        hint = ""
        if names == ["train"]:
            hint = (
                " It has no split to test on: use slices of the one it has, 'train[:80%]' to "
                "train and 'train[80%:]' to test."
            )
        raise DataError(
            f"split={split!r} is unknown for {name!r} ({_first_line(error)}). It has "
            f"{counts} and slices of them such as "
            f"'{names[-1]}[:80%]'.{hint}"
        ) from error
    if not count:
        raise DataError(f"split={split!r} of {name!r} is empty.")
    return count
