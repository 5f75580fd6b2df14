"""The images of a data set in numbered parts, each of which a worker reads by itself."""

from ..common import command  # noqa: F401  (starts TensorFlow quietly, in workers, too)

# isort: split
import abc
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from tfgrad import data, images
from tfgrad.data import digits, tfds
from tfgrad.errors import ArgumentError, DataError

from . import storage, tfrecord_files

_READ = 64  # examples that are read at a time
Size: TypeAlias = tuple[int, int]
# From the encoded content (or pixels) of an image to its pixels, which `Decoder` scales.
Decode: TypeAlias = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
        index: Its position in the data set.
        key: What it is called; unique in the data set.
        content: The file's bytes, or pixels; None if it cannot be read.
        label: Its class; −1 if that is not known.
        reason: Why it cannot be read.
    """

    index: int
    key: str
    content: Any
    label: int = -1
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive images, from `first` up to `last`; `where` is the source's own."""

    index: int
    first: int
    last: int
    where: Any = None


class Source(abc.ABC):
    """A data set; an object of its class is passed to workers.

    Attributes:
        has_labels: Whether its images have labels.
    """

    has_labels = False

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: workers read no listing of all files."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """What identifies the images, for the record."""

    @abc.abstractmethod
    def count(self) -> int:
        """The number of images, readable or not."""

    def parts(self, size: int) -> list[Part]:
        """All images, in parts of `size`."""
        count = self.count()
        starts = range(0, count, size)
        return [Part(i, first, min(first + size, count)) for i, first in enumerate(starts)]

    @abc.abstractmethod
    def read(self, part: Part) -> Iterator[Item]:
        """The images of a part, in their order."""

    def image_size(self) -> Size | None:
        """(height, width) of all images; None where they vary."""
        return None

    def pixels(self, size: Size, channels: int) -> Decode:
        """The function from the content of an item to float32 pixels [H, W, C] in [0, 1].

        What it raises for a broken image is a `DataError` or an error of TensorFlow.
        """
        signature = [tf.TensorSpec([], tf.string)]
        decode = tf.function(
            lambda content: images.decode(content, size, channels), input_signature=signature
        ).get_concrete_function()
        return lambda content: decode(tf.constant(content)).numpy()


@dataclasses.dataclass(frozen=True)
class Named(Source):
    """A data set by its name: 'digits', or an image classification set of TFDS."""

    name: str
    split: str
    data_dir: str | None = None
    download: bool = False
    size: Size | None = None

    has_labels = True

    def describe(self) -> dict[str, Any]:
        """Names, sizes and numbers."""
        size = None if self.size is None else list(self.size)
        return {"dataset": self.name, "split": self.split, "count": self.count(), "size": size}

    def count(self) -> int:
        """The number of images."""
        return len(_embedded(self)) if self.name == digits.NAME else _opened(self).count

    def image_size(self) -> Size | None:
        """(height, width) of the set."""
        if self.name == digits.NAME:
            return _embedded(self).image_shape[:2]
        return _opened(self).image_shape(self.size)[:2]

    def read(self, part: Part) -> Iterator[Item]:
        """The images of a part."""
        if self.name == digits.NAME:
            loaded = _embedded(self)
            for index in range(part.first, part.last):
                yield Item(index, str(index), loaded.images[index], int(loaded.labels[index]))
            return
        index = part.first
        try:
            for contents, labels in _rows(self, part, _READ):
                for content, label in zip(contents, labels, strict=True):
                    yield Item(index, str(index), content, int(label))
                    index += 1
        except (tf.errors.OpError, OSError) as error:
            yield from self._behind_damage(part, index, error)

    def _behind_damage(self, part: Part, index: int, error: Exception) -> Iterator[Item]:
        """The examples from `index` on, one by one; those behind a damaged one are lost."""
        try:
            for (content,), (label,) in _rows(self, dataclasses.replace(part, first=index), 1):
                yield Item(index, str(index), content, int(label))
                index += 1
        except (tf.errors.OpError, OSError) as again:
            error = again
        reason = f"{self.name}: got a damaged file behind example {index} ({first_line(error)})"
        yield from _unreadable(range(index, part.last), str, reason)

    def pixels(self, size: Size, channels: int) -> Decode:
        """See `Source.pixels`."""
        embedded = self.name == digits.NAME
        found = _embedded(self).image_shape if embedded else _opened(self).image_shape(self.size)
        if tuple(found) != (*size, channels):
            raise ArgumentError(
                f"dataset: got {self.name!r}, whose images are {tuple(found)}; expected "
                f"{(*size, channels)}, which the model takes. Try --image_size={size[0]},{size[1]}."
            )
        if embedded:
            return lambda content: content
        signature = [tf.TensorSpec([], tf.string)]
        decode = tf.function(
            lambda content: _opened(self).pixels(content, self.size), input_signature=signature
        ).get_concrete_function()
        # Divided outside of the graph, which would multiply by the rounded inverse of 255.
        return lambda content: decode(tf.constant(content)).numpy() / np.float32(255)


def _rows(source: Named, part: Part, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(encoded images, labels) of a part, `count` at a time, which costs less than one by one."""
    rows = _opened(source).encoded(part.first, part.last).batch(count).prefetch(2)
    return iter(rows.as_numpy_iterator())


@functools.lru_cache(maxsize=1)
def _opened(source: Named) -> tfds.Split:
    """The split of TFDS, opened once per process."""
    return tfds.opened(source.name, source.split, source.data_dir, source.download)


@functools.lru_cache(maxsize=1)
def _embedded(source: Named) -> data.Dataset:
    return data.load(source.name, source.split, image_size=source.size)


@dataclasses.dataclass(frozen=True)
class Records(Source):
    """Encoded images in `tf.train.Example`s of TFRecord files.

    Attributes:
        files: Paths, in their order.
        image_key: The feature of the encoded image.
        label_key: The feature of the label; None for no labels.
    """

    files: tuple[str, ...]
    image_key: str
    label_key: str | None = None

    @property
    def has_labels(self) -> bool:  # type: ignore[override]
        """Whether there is a feature of labels."""
        return self.label_key is not None

    def describe(self) -> dict[str, Any]:
        """Names, sizes and numbers."""
        sizes = [[os.path.basename(path), storage.size(path)] for path in self.files]
        return {
            "tfrecords": len(self.files),
            "files": tfrecord_files.digest(sizes),
            "image_key": self.image_key,
            "label_key": self.label_key,
        }

    def count(self) -> int:
        """The number of images."""
        return sum(self._counts)

    def parts(self, size: int) -> list[Part]:
        """All images, in parts of `size`."""
        slices = tfrecord_files.slices(self._counts, size)
        return [
            dataclasses.replace(part, where=where)
            for part, where in zip(super().parts(size), slices, strict=True)
        ]

    @functools.cached_property
    def _shared(self) -> int:
        """The length of the directories that all paths share."""
        folders = [path[: path.rfind("/") + 1] for path in self.files]
        return os.path.commonprefix(folders).rfind("/") + 1  # noqa: RUF071  (URLs, cut at a slash)

    @functools.cached_property
    def _counts(self) -> list[int]:
        return tfrecord_files.counts(self.files)

    def read(self, part: Part) -> Iterator[Item]:
        """The images of a part."""
        index = part.first
        for number, first, count in part.where:
            path = self.files[number]
            key = functools.partial(_record_key, path[self._shared :], first - index)
            stream = tf.data.TFRecordDataset(path).skip(first).take(count).prefetch(16)
            stop = index + count
            try:
                for record in stream.as_numpy_iterator():
                    yield self._item(index, key(index), record)
                    index += 1
            except (tf.errors.OpError, OSError) as error:
                reason = f"{path!r}: got a damaged record or one behind it ({first_line(error)})"
                yield from _unreadable(range(index, stop), key, reason)
                index = stop

    def _item(self, index: int, key: str, record: bytes) -> Item:
        try:
            content, label = tfrecord_files.example(record, self.image_key, self.label_key)
        except DataError as error:
            return Item(index, key, None, reason=f"{key!r}: {error}")
        return Item(index, key, content, label)


def _record_key(name: str, offset: int, index: int) -> str:
    return f"{name}:{index + offset}"


def _unreadable(indices: Sequence[int], key: Callable[[int], str], reason: str) -> Iterator[Item]:
    for index in indices:
        yield Item(index, key(index), None, reason=reason)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without a full stop."""
    text = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    return (text.strip() or type(error).__name__).splitlines()[0].rstrip(".")


def in_range(values: np.ndarray, image_range: tuple[float, float]) -> np.ndarray:
    """Pixels from [0, 1] in the range that a model takes."""
    low, high = image_range
    return (
        values if (low, high) == (0.0, 1.0) else np.float32(low) + np.float32(high - low) * values
    )
