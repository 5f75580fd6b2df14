"""Reads an image classification set of TensorFlow Datasets (TFDS) into arrays."""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.data import memory
from tfgrad.errors import DataError

_BATCH = 512


@dataclasses.dataclass(frozen=True)
class Split:
    """A prepared split of which any range of examples can be read; made by `opened`.

    Attributes:
        name: The set's TFDS name.
        split: The TFDS split string.
        builder: The builder of TFDS.
        keys: The names of the image and of the label among the features.
        count: The number of examples.
    """

    name: str
    split: str
    builder: Any
    keys: tuple[str, str]
    count: int

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels."""
        return tuple(self.builder.info.features[self.keys[1]].names)

    def image_shape(self, image_size: tuple[int, int] | None) -> tuple[int, int, int]:
        """(height, width, channels) of every image once it is read.

        Raises:
            DataError: The images vary in size, or are no uint8 images.
        """
        return _image_shape(self.builder, self.name, self.keys[0], image_size)

    def pixels(self, encoded: tf.Tensor, image_size: tuple[int, int] | None) -> tf.Tensor:
        """The uint8 pixels of one encoded image, as `tfgrad.data.load` reads it."""
        pixels = self.builder.info.features[self.keys[0]].decode_example(encoded)
        if image_size is not None:
            pixels = tf.image.resize(pixels, image_size, antialias=True)
            pixels = tf.cast(tf.clip_by_value(tf.round(pixels), 0.0, 255.0), tf.uint8)
        return pixels

    def encoded(self, first: int | None = None, last: int | None = None) -> tf.data.Dataset:
        """(encoded image, label) of the examples from `first` up to `last`, in stored order."""
        import tensorflow_datasets as tfds

        # TFDS would decode one image at a time; left encoded, they decode on every core.
        image_key, label_key = self.keys
        stream = self.builder.as_dataset(
            split=self.split if first is None else self._range(tfds, first, last),
            shuffle_files=False,
            decoders={image_key: tfds.decode.SkipDecoding()},
        )
        return stream.map(lambda x: (x[image_key], tf.cast(x[label_key], tf.int32)))

    def _range(self, tfds: Any, first: int, last: int | None) -> Any:
        """A range of examples, as TFDS takes it."""
        splits, chosen, before = self.builder.info.splits, None, 0
        for part in tfds.core.ReadInstruction.from_spec(self.split).to_absolute(splits):
            low = part.from_ or 0
            high = splits[part.splitname].num_examples if part.to is None else part.to
            start = low + max(first - before, 0)
            stop = min(high, high if last is None else low + last - before)
            before += high - low
            if start < stop:
                one = tfds.core.ReadInstruction(part.splitname, from_=start, to=stop, unit="abs")
                chosen = one if chosen is None else chosen + one
        return chosen


def opened(name: str, split: str, data_dir: str | os.PathLike[str] | None, download: bool) -> Split:
    """Open one split of a set, which is downloaded and prepared if that is allowed.

    Args:
        name: The set's TFDS name.
        split: A TFDS split string.
        data_dir: The TFDS data directory, or None for TFDS's own.
        download: Whether TFDS may download the set.

    Raises:
        DataError: As for `tfgrad.data.load`.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"name: got {name!r}, of which there is no folder here, and which is therefore read "
            f"through tensorflow_datasets, but that cannot be imported ({error}); expected "
            f"'digits' or the path of a folder without it.{_close_folder(name)} Run `pip install "
            "tfgrad[data]`, or use name='digits'."
        ) from error

    if data_dir is not None:
        data_dir = os.path.expanduser(data_dir)
        if not download and not os.path.isdir(data_dir):
            raise DataError(
                f"data_dir: got {data_dir!r}, which is no directory; expected the TFDS data "
                "directory. Pass download=True to create it."
            )
    builder = _builder(tfds, name, data_dir)
    keys = _features(tfds, builder.info, name)  # Before any download.
    _prepare(builder, name, download)
    return Split(name, split, builder, keys, _count(builder, name, split))


def read(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None,
    download: bool,
    image_size: tuple[int, int] | None,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Decode one split into memory.

    Args:
        name: The set's TFDS name.
        split: A TFDS split string.
        data_dir: The TFDS data directory, or None for TFDS's own.
        download: Whether TFDS may download the set.
        image_size: (height, width) to resize to, or None.

    Returns:
        Images [n, height, width, channels] uint8, labels [n] int32 and the class names.

    Raises:
        DataError: As for `tfgrad.data.load`.
    """
    chosen = opened(name, split, data_dir, download)
    builder, count = chosen.builder, chosen.count
    shape = (count, *chosen.image_shape(image_size))
    memory.check(name, split, shape)
    images, labels = np.empty(shape, np.uint8), np.empty(count, np.int32)
    filled = 0
    try:
        for pixels, targets in _stream(chosen, image_size):
            images[filled : filled + len(targets)] = pixels
            labels[filled : filled + len(targets)] = targets
            filled += len(targets)
    except (tf.errors.OpError, OSError, ValueError) as error:
        raise DataError(
            f"split: got {split!r} of {name!r} in {builder.data_path}, which cannot be read after "
            f"{filled} of {count} examples ({_first_line(error)}); expected all of them. Prepare "
            "the set again if a file is damaged."
        ) from error
    if filled != count:
        raise DataError(
            f"split: got {filled} examples of {split!r} of {name!r} in {builder.data_path}; "
            f"expected {count}, as its dataset_info.json says. Prepare the set again."
        )
    return images, labels, chosen.classes


def _image_shape(
    builder: Any, name: str, key: str, image_size: tuple[int, int] | None
) -> tuple[int, int, int]:
    """(height, width, channels) of every image once it is read."""
    image = builder.info.features[key]
    height, width, channels = image.shape
    if image_size is not None:
        height, width = image_size
    if None in (height, width):
        raise DataError(
            f"image_size: got None for {name!r}, whose images vary in size (shape {image.shape}); "
            "expected (height, width) to resize them to."
        )
    if image.np_dtype != np.uint8 or channels is None:
        raise DataError(
            f"name: got {name!r}, whose images are {np.dtype(image.np_dtype)} of shape "
            f"{image.shape}; expected uint8 with a fixed number of channels."
        )
    return height, width, channels


def _stream(split: Split, image_size: tuple[int, int] | None) -> Any:
    """Batches of (images, labels) as arrays, in the set's stored order."""
    stream = split.encoded().map(
        lambda image, label: (split.pixels(image, image_size), label),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return stream.batch(_BATCH).prefetch(2).as_numpy_iterator()


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
            f"name: got {name!r}, of which there is no folder here, and which is unknown to TFDS; "
            "expected 'digits', an existing folder, or the name of one of TFDS's image "
            f"classification sets.{_close_folder(name)} Close matches in TFDS: "
            f"{', '.join(map(repr, close)) or 'none'}."
        ) from error
    except Exception as error:  # The class depends on the set's configs and versions.
        raise DataError(
            f"name: got {name!r}, which cannot be opened ({_first_line(error)}); expected a data "
            "set that TFDS can open. Check its config and version."
        ) from error


def _close_folder(name: str) -> str:
    """A sentence that names a folder with almost this name, or ""."""
    above, last = os.path.split(os.path.normpath(name))
    try:
        with os.scandir(above or os.curdir) as entries:
            beside = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return ""
    close = difflib.get_close_matches(last, beside, n=1)
    return f" Did you mean the folder {os.path.join(above, close[0])!r}?" if close else ""


def _prepare(builder: Any, name: str, download: bool) -> None:
    if builder.info.splits:
        return
    where = str(builder.data_path)
    if not download:
        raise DataError(
            f"name: got {name!r}, which is not prepared ({where} holds no data); expected a "
            "prepared set. Point data_dir at a TFDS data directory that has it, or pass "
            "download=True."
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # Network, disk, checksum, missing package: one message for all.
        raise DataError(
            f"name: got {name!r}, which cannot be downloaded to {where} ({type(error).__name__}: "
            f"{_first_line(error)}); expected a connection and a writable directory. Check both."
        ) from error


def _features(tfds: Any, info: Any, name: str) -> tuple[str, str]:
    """The names of the image and of the label among the features."""
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
            f"name: got {name!r}, which is no image classification set (it has {have}); expected "
            "one Image and one ClassLabel."
        )
    return image_keys[0], label_keys[0]


def _count(builder: Any, name: str, split: str) -> int:
    splits = builder.info.splits
    try:
        count = splits[split].num_examples
    except Exception as error:  # KeyError, ValueError or AssertionError, depending on the fault.
        counts = {key: splits[key].num_examples for key in sorted(splits)}
        names = list(counts)
        hint = ""
        if names == ["train"]:
            hint = (
                " There is no split to test on: use slices of the only one, 'train[:80%]' to train "
                "and 'train[80%:]' to test."
            )
        raise DataError(
            f"split: got {split!r}, which is unknown for {name!r} ({_first_line(error)}); expected "
            f"one of {counts} or a slice such as '{names[-1]}[:80%]'.{hint}"
        ) from error
    if not count:
        raise DataError(
            f"split: got {split!r}, which is empty in {name!r}; expected at least one example."
        )
    return count
