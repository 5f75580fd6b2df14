"""TFRecord files: the number of records, and encoded images in the examples."""

import concurrent.futures
import hashlib
import json
import os
import struct
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError

from tfgrad import images
from tfgrad.errors import DataError

from . import storage

# The length of a record and its checksum; the record's own checksum follows it.
_HEADER = struct.Struct("<QI")
_FOOTER = 4
_THREADS = 16


def digest(content: Any) -> str:
    """A short name of content that JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def counts(paths: tuple[str, ...]) -> list[int]:
    """The number of records in every file.

    Raises:
        DataError: A file cannot be read, or is none.
    """
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(count, paths))


def count(path: str) -> int:
    """The number of records in a file; their content is skipped.

    Raises:
        DataError: The file cannot be read, or is no TFRecord file.
    """
    found = position = 0
    try:
        whole = storage.size(path)
        with storage.opened(path) as file:
            while position < whole:
                file.seek(position)
                header = file.read(_HEADER.size)
                length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else whole
                position += _HEADER.size + length + _FOOTER
                if position > whole:
                    raise DataError(
                        f"tfrecords: got {path!r}, in which record {found} does not end; expected "
                        "a whole TFRecord file without compression. Copy it again, or write it "
                        "without compression."
                    )
                found += 1
    except (OSError, ValueError) as error:
        raise DataError(
            f"tfrecords: got {path!r}, which cannot be read ({error}); expected a TFRecord file. "
            "Check the path and its permissions."
        ) from error
    return found


def slices(counted: Sequence[int], size: int) -> list[tuple[tuple[int, int, int], ...]]:
    """Which records each part of `size` has: (number of the file, first record, count) of each."""
    found: list[list[tuple[int, int, int]]] = []
    room = 0
    for number, total in enumerate(counted):
        first = 0
        while first < total:
            if not room:
                found.append([])
                room = size
            taken = min(room, total - first)
            found[-1].append((number, first, taken))
            first, room = first + taken, room - taken
    return [tuple(part) for part in found]


def example(record: bytes, image_key: str, label_key: str | None) -> tuple[bytes, int]:
    """(encoded image, label) of a record; the label is −1 without a `label_key`.

    Raises:
        DataError: It is no `tf.train.Example` with these features.
    """
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise DataError(
            "record: got one that is no tf.train.Example; expected one with an encoded image."
        ) from error
    values: Sequence[bytes] = features[image_key].bytes_list.value if image_key in features else ()
    if len(values) != 1 or len(values[0]) > images.MAX_BYTES:
        known = ", ".join(sorted(features)[:8])
        raise DataError(
            f"record: got {len(values)} byte strings in the feature {image_key!r}; expected one of "
            f"at most {images.MAX_BYTES} bytes; try one of the features {known[:200]}."
        )
    if label_key is None:
        return values[0], -1
    labels: Sequence[int] = features[label_key].int64_list.value if label_key in features else ()
    if len(labels) != 1:
        raise DataError(
            f"record: got {len(labels)} integers in the feature {label_key!r}; expected one label."
        )
    return values[0], int(labels[0])


def paths(patterns: Sequence[str]) -> tuple[str, ...]:
    """The files that patterns such as `data/train-*.tfrecord` name, sorted.

    Raises:
        DataError: A pattern names none.
    """
    found: list[str] = []
    for pattern in patterns:
        if storage.is_remote(pattern):
            matched = [one.path for one in storage.file_systems().match([pattern])[0].metadata_list]
        else:
            matched = [path for path in tf.io.gfile.glob(pattern) if os.path.isfile(path)]
        if not matched:
            raise DataError(
                f"tfrecords: got {pattern!r}, which names no file; expected TFRecord files. Check "
                "the working directory."
            )
        found += matched
    return tuple(sorted(dict.fromkeys(found)))
