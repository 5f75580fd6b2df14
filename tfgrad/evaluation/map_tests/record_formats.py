"""Shards of maps with their keys, scores and classes, as TFRecord or Parquet files.

A column is an array [n, …]: `index` (the position in the data set), `key`, `saliency`, `score`,
`class`, and what else a signature returns for each image. In a TFRecord file every image is a
`tf.train.Example` with a feature for each column, in a Parquet file a row, whose maps are lists of
H·W numbers; the shapes stand in the manifest beside the shards.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import tensorflow as tf

from tfgrad.errors import DataError
from tfgrad.internal import regular_files

# {column: (type, shape of one image's entry)}; the type is "string", or a name of NumPy.
Schema = Mapping[str, tuple[str, Sequence[int]]]

SUFFIXES = {"tfrecord": ".tfrecord", "parquet": ".parquet"}
_STRING = "string"
_ROWS = 512


class Writer(Protocol):
    """What appends columns to one shard."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def add(self, columns: Mapping[str, Any]) -> None:
        """Append the rows of columns, each [n, …]."""


def writer(path: str, kind: str, schema: Schema) -> Writer:
    """A writer of one shard.

    Args:
        path: The file.
        kind: One of `SUFFIXES`.
        schema: The columns.

    Raises:
        DataError: pyarrow, which Parquet needs, is not installed.
    """
    return _Parquet(path, schema) if kind == "parquet" else _TFRecord(path, schema)


def read(path: str, kind: str, schema: Schema, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Some columns of a shard.

    Args:
        path: The file.
        kind: One of `SUFFIXES`.
        schema: The columns that it was written with.
        names: The columns to read.

    Returns:
        {column: array [n, …]}; strings are arrays of `str` objects.

    Raises:
        DataError: pyarrow, which Parquet needs, is not installed.
        OSError, ValueError: The file is missing, damaged or of other columns.
    """
    regular_files.opened(path).close()
    chosen = {name: schema[name] for name in names}
    return (_read_parquet if kind == "parquet" else _read_tfrecord)(path, chosen)


class _TFRecord:
    def __init__(self, path: str, schema: Schema) -> None:
        self._schema = schema
        self._file = tf.io.TFRecordWriter(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, columns: Mapping[str, Any]) -> None:
        arrays = {name: _array(columns[name], kind) for name, (kind, _) in self._schema.items()}
        for row in range(len(next(iter(arrays.values())))):
            example = tf.train.Example()
            features = example.features.feature
            for name, values in arrays.items():
                _fill(features[name], values[row], self._schema[name][0])
            self._file.write(example.SerializeToString())


def _fill(feature: Any, value: Any, kind: str) -> None:
    if kind == _STRING:
        feature.bytes_list.value.append(value.encode("utf-8", "surrogateescape"))
    elif kind.startswith("float"):
        # A message of packed numbers, which takes a hundredth of the time of appending them.
        raw = np.ascontiguousarray(value, "<f4").tobytes()
        feature.float_list.ParseFromString(b"\x0a" + _varint(len(raw)) + raw)
    else:
        feature.int64_list.value.extend(np.atleast_1d(value).ravel().tolist())


def _varint(number: int) -> bytes:
    """A length as protocol buffers write it."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _read_tfrecord(path: str, schema: Schema) -> dict[str, np.ndarray]:
    def feature(kind: str, shape: Sequence[int]) -> Any:
        types = {_STRING: tf.string, "float32": tf.float32}
        return tf.io.FixedLenFeature(shape, types.get(kind, tf.int64))

    features = {name: feature(*one) for name, one in schema.items()}
    rows = tf.data.TFRecordDataset(path).batch(_ROWS)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in schema}
    try:
        for batch in rows.map(lambda x: tf.io.parse_example(x, features)).as_numpy_iterator():
            for name, part in parts.items():
                part.append(_array(batch[name], schema[name][0]))
    except tf.errors.OpError as error:
        raise ValueError(error.message) from error
    return {name: _joined(part, *schema[name]) for name, part in parts.items()}


class _Parquet:
    def __init__(self, path: str, schema: Schema) -> None:
        self._arrow = arrow()
        import pyarrow.parquet as parquet

        self._schema = schema
        fields = [(name, self._type(*one)) for name, one in schema.items()]
        self._fields = self._arrow.schema(fields)
        # Few numbers of a map are equal: a dictionary of them makes files larger than raw ones.
        self._file = parquet.ParquetWriter(
            path, self._fields, compression="zstd", use_dictionary=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _type(self, kind: str, shape: Sequence[int]) -> Any:
        one = getattr(self._arrow, kind)()
        return self._arrow.list_(one, int(np.prod(shape))) if len(shape) else one

    def add(self, columns: Mapping[str, Any]) -> None:
        arrow, found = self._arrow, []
        for name, (kind, shape) in self._schema.items():
            values = _array(columns[name], kind)
            if len(shape):
                flat = arrow.array(values.ravel())
                found.append(arrow.FixedSizeListArray.from_arrays(flat, int(np.prod(shape))))
            else:
                found.append(arrow.array(_texts(values) if kind == _STRING else values))
        self._file.write_table(arrow.Table.from_arrays(found, schema=self._fields))


def _read_parquet(path: str, schema: Schema) -> dict[str, np.ndarray]:
    library = arrow()
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path, columns=list(schema), memory_map=False)
        found = {}
        for name, (kind, shape) in schema.items():
            column = table.column(name).combine_chunks()
            if len(shape):
                column = column.flatten()
            values = column.to_numpy(zero_copy_only=False)
            found[name] = _array(values, kind).reshape((len(table), *shape))
    except (library.ArrowException, KeyError) as error:
        raise ValueError(str(error)) from error
    return found


def arrow() -> Any:
    """The package pyarrow.

    Raises:
        DataError: It is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            f"format: got 'parquet', which is written and read by pyarrow, but that cannot be "
            f"imported ({error}); expected 'tfrecord' without it. Run `pip install tfgrad[beam]`, "
            "or use 'tfrecord'."
        ) from error
    return pyarrow


def _array(values: Any, kind: str) -> np.ndarray:
    if kind != _STRING:
        return np.asarray(values, kind)
    found = np.empty(len(values), object)
    for row, value in enumerate(values):
        found[row] = value if isinstance(value, str) else os.fsdecode(value)
    return found


def _texts(values: np.ndarray) -> list[str]:
    """Strings that UTF-8 can hold; bytes of a file's name that are none become \\udcXX escapes."""
    return [value.encode("utf-8", "backslashreplace").decode() for value in values]


def _joined(parts: list[np.ndarray], kind: str, shape: Sequence[int]) -> np.ndarray:
    empty = np.empty((0, *shape), object if kind == _STRING else kind)
    return np.concatenate([empty, *parts])
