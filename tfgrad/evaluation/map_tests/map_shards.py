"""Maps [n, H, W] on disk, in shards of which only the requested rows come into memory."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np

from tfgrad.errors import ArgumentError, DataError, ResumeError
from tfgrad.evaluation.digests import digest
from tfgrad.evaluation.map_tests import map_records
from tfgrad.evaluation.map_tests.map_files import MapFiles
from tfgrad.evaluation.map_tests.pixel_removal import finite_rows, ranked
from tfgrad.evaluation.records import read_record
from tfgrad.internal import regular_files
from tfgrad.internal.arguments import is_integer

MANIFEST = "manifest.json"
DTYPE = np.dtype(np.float32)


class ShardFiles(MapFiles):
    """The files of a directory of arrays; `settings` is its manifest."""

    remedy = "Call tfgrad.evaluation.saved_maps again, which computes the missing ones."

    def path(self, index: int) -> str:
        """The file of a shard; the settings' digest in its name keeps other maps apart."""
        return os.path.join(self.directory, f"{digest(self.settings)[:8]}-{index:05d}.npy")

    def readable(self, index: int) -> np.ndarray | None:
        """A shard that is not yet in memory; None if it is missing, cut short or something else."""
        try:
            regular_files.opened(self.path(index)).close()
            found = np.load(self.path(index), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        first, last = self.bounds(index)
        right = isinstance(found, np.memmap) and found.dtype == DTYPE
        return found if right and found.shape == (last - first, *self.shape[1:]) else None

    def missing(self) -> list[int]:
        """The indices of the shards that cannot be read."""
        return [index for index in range(self.count) if self.readable(index) is None]


class MapShards:
    """Maps [n, H, W] float32 on disk, of which only the requested rows come into memory.

    `maps[a:b]` is an array; every test of `tfgrad.evaluation` takes the object in place of one.

    Args:
        directory: The directory that `saved_maps` has written, or that of one method of
            `python -m apps.map_dataset`. Images that the latter could not read have maps of NaN,
            which tests leave out as they leave out other maps that are not finite.

    Attributes:
        shape: The shape of all maps, (n, H, W).
        dtype: The type of the maps, float32.
        settings: What the maps were computed with.

    Raises:
        ArgumentError: The directory holds no maps.
        ResumeError: Its manifest is damaged.
    """

    dtype = DTYPE

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = os.fspath(directory)
        settings = read_record(os.path.join(self.directory, MANIFEST))
        if settings is None:
            raise ArgumentError(
                f"directory: got {self.directory!r}, which has no {MANIFEST}; expected one that "
                "tfgrad.evaluation.saved_maps has written."
            )
        shape: Any = settings.get("shape")
        size: Any = settings.get("shard_size")
        right = isinstance(shape, list) and len(shape) > 1 and is_integer(size) and size >= 1
        if not right or not all(is_integer(n) and n >= 0 for n in shape):
            raise ResumeError(
                f"directory: got {self.directory!r}, whose {MANIFEST} has shape={shape!r} and "
                f"shard_size={size!r}; expected [n, H, W] and an integer ≥ 1. Remove the "
                "directory, and make the maps again."
            )
        self.settings = settings
        self._files: MapFiles = ShardFiles(self.directory, settings)
        if map_records.is_written(settings):
            map_records.check_manifest(self.directory, settings)
            self._files = map_records.RecordFiles(self.directory, settings)
        self._last: tuple[int, np.ndarray] | None = None
        self.shape: tuple[int, ...] = self._files.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """The maps of consecutive images.

        Raises:
            ArgumentError: `rows` is no range of step 1.
            DataError: A shard is missing or damaged.
        """
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise ArgumentError(f"maps: got [{rows!r}]; expected a range of images, maps[a:b].")
        start, stop, _ = rows.indices(len(self))
        size = self._files.size
        found = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
        for index in range(start // size, -(-stop // size) if len(found) else 0):
            first, last = self._files.bounds(index)
            low, high = max(start, first), min(stop, last)
            found[low - start : high - start] = self._shard(index)[low - first : high - first]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        return f"MapShards({self.directory!r}, {self.settings.get('method')}, {self.shape})"

    @functools.cached_property
    def left_out(self) -> int:
        """The number of maps with NaN or infinite values; tests do not count their images."""
        return int((~finite_rows(self)).sum())

    def column(self, name: str) -> np.ndarray:
        """What was written beside every map: `key`, `score`, `class`, `completeness_error`, …

        Args:
            name: A column of a directory that `python -m apps.map_dataset` has written.

        Returns:
            [n]; NaN, −1 or an empty string for images that could not be read.

        Raises:
            ArgumentError: There is no such column.
            DataError: A shard is missing or damaged.
        """
        map_records.check_column(self._files, name)
        shards = range(self._files.count)
        try:
            return np.concatenate([self._files.column(index, name) for index in shards])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"maps: {self.directory!r} has a damaged shard ({error}); expected the column "
                f"{name!r}. Make the maps again."
            ) from error

    def ranks(self) -> np.ndarray:
        """The position of each pixel in ascending order, in every map.

        Ties are broken by one random order, as in `pixel_perturbation`.

        Returns:
            [n, H, W], in the smallest unsigned integer type that holds H·W; undefined for maps that
            are not finite.
        """
        return ranked(self)

    def _shard(self, index: int) -> np.ndarray:
        if self._last is not None and self._last[0] == index:
            return self._last[1]
        found = self._files.readable(index)
        if found is None:
            raise DataError(
                f"maps: {self._files.path(index)!r} is missing or damaged; expected a shard of "
                f"{self._files.size} maps. {self._files.remedy}"
            )
        if not isinstance(found, np.memmap):  # which reads the requested rows alone
            self._last = index, found
        return found
