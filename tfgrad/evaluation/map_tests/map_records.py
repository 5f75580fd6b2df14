"""Maps that were written as records with keys, scores and classes, read as one array."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgrad.errors import ArgumentError, ResumeError
from tfgrad.evaluation.map_tests import record_formats
from tfgrad.evaluation.map_tests.map_files import MapFiles
from tfgrad.internal.arguments import is_integer

FORMAT = "tfgrad.map_records"
MAPS = "saliency"
# What an image that could not be read has in place of a number, a class or a key.
_MISSING: dict[str, Any] = {"f": np.nan, "i": -1, "O": ""}


def is_written(settings: Mapping[str, Any]) -> bool:
    """Whether a manifest is one of records."""
    return settings.get("format") == FORMAT


def shard_name(index: int, count: int, kind: str) -> str:
    """The file's name of a shard."""
    return f"maps-{index:05d}-of-{count:05d}{record_formats.SUFFIXES[kind]}"


class RecordFiles(MapFiles):
    """The files of a directory of records; `settings` is its manifest."""

    remedy = "Call apps.map_dataset again with --overwrite."

    @property
    def columns(self) -> record_formats.Schema:
        """The columns, {name: (type, shape of one image's entry)}."""
        return self.settings["columns"]

    @property
    def kind(self) -> str:
        """The format to read: Parquet if it was written and pyarrow is there."""
        kinds = self.settings["formats"]
        has_arrow = importlib.util.find_spec("pyarrow") is not None
        return "parquet" if "parquet" in kinds and (has_arrow or len(kinds) == 1) else "tfrecord"

    def path(self, index: int) -> str:
        """The file of a shard."""
        return os.path.join(self.directory, shard_name(index, self.count, self.kind))

    def readable(self, index: int) -> np.ndarray | None:
        """The maps of a shard; None if it is missing, cut short or something else."""
        try:
            return self.column(index, MAPS)
        except (OSError, ValueError, KeyError):
            return None

    def column(self, index: int, name: str) -> np.ndarray:
        """A column of a shard, one row for each image.

        An image without a record has NaN, −1 or an empty string.

        Raises:
            OSError, ValueError, KeyError: The shard or the column is missing or damaged.
        """
        names = list(dict.fromkeys(["index", name]))
        found = record_formats.read(self.path(index), self.kind, self.columns, names)
        first, last = self.bounds(index)
        rows, values = found["index"], found[name]
        if len(rows) and (rows.min() < first or rows.max() >= last or (np.diff(rows) < 1).any()):
            raise ValueError(f"records of other images than {first} to {last - 1}")
        whole = np.full((last - first, *values.shape[1:]), _MISSING[values.dtype.kind])
        whole = whole.astype(values.dtype, copy=False)
        whole[rows - first] = values
        return whole


def check_manifest(directory: str, settings: Mapping[str, Any]) -> None:
    """Check the entries of a manifest of records that are read.

    Raises:
        ResumeError: One has another form.
    """
    columns, kinds = settings.get("columns"), settings.get("formats")
    right = isinstance(columns, dict) and all(map(_is_column, columns.values()))
    right = right and {"index", MAPS} <= set(columns or ())
    right = right and isinstance(kinds, list) and bool(kinds)
    if not right or not set(kinds or ()) <= set(record_formats.SUFFIXES):
        raise ResumeError(
            f"directory: got {directory!r}, whose manifest has columns={columns!r} and "
            f"formats={kinds!r}; expected those of maps and their formats. Remove the directory, "
            "and make the maps again."
        )


def _is_column(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], list):
        return False
    sizes = all(is_integer(n) and n >= 1 for n in entry[1])
    return sizes and entry[0] in ("string", "float32", "int32", "int64")


def check_column(files: MapFiles, name: str) -> None:
    """Check that maps have a column.

    Raises:
        ArgumentError: They have no such column.
    """
    if name not in files.columns:
        known = ", ".join(files.columns) or "(none)"
        raise ArgumentError(f"name: got {name!r}; expected one of the columns {known}.")
