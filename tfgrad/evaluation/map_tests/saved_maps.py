"""The maps of a whole data set, computed once and kept on disk in shards."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfgrad import data
from tfgrad.data.dataset import Dataset
from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation.digests import array_digest, digest, layers_digest, plain, weights_digest
from tfgrad.evaluation.map_tests.pixel_removal import finite_rows, ranked
from tfgrad.evaluation.records import check_same, read_record
from tfgrad.internal.arguments import integer
from tfgrad.internal.files import alone, make_directory, write_json

_MANIFEST = "manifest.json"
_UNFINISHED = "unfinished.npy"
_LABEL = "label"


class MapShards:
    """Maps [n, H, W] float32 on disk, of which only what is asked for comes into memory.

    `maps[a:b]` is an array; every test of `tfgrad.evaluation` takes the object in place of one.

    Args:
        directory: where `saved_maps` has put them.

    Attributes:
        shape: (n, H, W).
        dtype: float32.
        settings: what the maps were made with.

    Raises:
        ArgumentError: the directory holds no maps.
        ResumeError: its manifest is damaged.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = os.fspath(directory)
        path = os.path.join(self.directory, _MANIFEST)
        settings = read_record(path)
        if settings is None:
            raise ArgumentError(
                f"directory: {self.directory!r} has no {_MANIFEST}; expected one in which "
                "tfgrad.evaluation.saved_maps has put maps."
            )
        self.settings = settings
        count, height, width = settings["shape"]
        self.shape: tuple[int, int, int] = (count, height, width)
        self._size: int = settings["shard_size"]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """The maps of neighbouring images.

        Raises:
            ArgumentError: rows are no such range.
            DataError: a shard is missing or damaged.
        """
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise ArgumentError(f"maps: got [{rows!r}]; expected a range of images, maps[a:b].")
        start, stop, _ = rows.indices(len(self))
        found = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
        for index in range(start // self._size, -(-stop // self._size) if len(found) else 0):
            first, last = self._bounds(index)
            low, high = max(start, first), min(stop, last)
            found[low - start : high - start] = self._shard(index)[low - first : high - first]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        return f"MapShards({self.directory!r}, {self.settings['method']}, {self.shape})"

    @functools.cached_property
    def left_out(self) -> int:
        """How many maps hold NaN or infinite values; tests do not count their images."""
        return int((~finite_rows(self)).sum())

    def ranks(self) -> np.ndarray:
        """The position of each pixel in ascending order, in every map.

        Among equal values one random order decides, as in `pixel_perturbation`.

        Returns:
            [n, H, W], the smallest unsigned integers that hold H·W; of maps that are not finite,
            nothing of meaning.
        """
        return ranked(self)

    # For `saved_maps`

    def _bounds(self, index: int) -> tuple[int, int]:
        return index * self._size, min((index + 1) * self._size, len(self))

    def _path(self, index: int) -> str:
        # The settings' digest keeps shards of other maps from being taken for these.
        return os.path.join(self.directory, f"{digest(self.settings)[:8]}-{index:05d}.npy")

    def _shard(self, index: int) -> np.ndarray:
        found = self._readable(index)
        if found is None:
            raise DataError(
                f"maps: {self._path(index)!r} is missing or damaged; call "
                "tfgrad.evaluation.saved_maps again, which computes what is missing."
            )
        return found

    def _readable(self, index: int) -> np.ndarray | None:
        """A shard, not yet in memory; None if it is missing, cut short or something else."""
        try:
            found = np.load(self._path(index), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        first, last = self._bounds(index)
        right = isinstance(found, np.memmap) and found.dtype == self.dtype
        return found if right and found.shape == (last - first, *self.shape[1:]) else None

    def _missing(self) -> list[int]:
        count = -(-len(self) // self._size)
        return [index for index in range(count) if self._readable(index) is None]


def saved_maps(
    method: Callable[[Any, Any], Any],
    dataset: Dataset,
    directory: str | os.PathLike[str],
    *,
    target: int | str | None = None,
    normalize: tuple[Any, Any] | None = None,
    shard_size: int = 1000,
    batch_size: int = 64,
    name: str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> MapShards:
    """The maps of every image of a data set, computed unless the directory has them.

    Shards are written aside and renamed: a killed call goes on with the shard that was open, and a
    finished directory is only read. Where another process is at work on the directory, the call
    waits for it (but not on Windows, which lacks the lock). Memory does not grow with the data set.

    Args:
        method: a `tfgrad.saliency` method, or any function of (float images [batch, H, W, C],
            classes) that returns maps [batch, H, W].
        dataset: the images; they reach the method by `data.pipeline`, in their order.
        directory: where the maps are kept; one for each method, network and data set.
        target: whose logit is explained: None for the predicted class, `"label"`, or a class.
        normalize: (mean, std) per channel, as the network was trained with.
        shard_size: images per file.
        batch_size: images per call of the method; may differ from call to call.
        name: what tells a bare function from others, in place of a method's options and weights.
        progress: is told (images done, images) at the start and after every batch.

    Returns:
        The maps. One that is NaN or infinite is kept as it is, and counted by `left_out`.

    Raises:
        ArgumentError: the method is a bare function without a name, or its maps have another shape
            than the images; an option is out of range; the directory cannot be written.
        ResumeError: the directory holds maps of another method, network, data set or target; it
            says which.
    """
    batch_size = integer("batch_size", batch_size)
    settings = _settings(
        method, dataset, target, normalize, integer("shard_size", shard_size), name
    )
    directory = make_directory(directory)
    path = os.path.join(directory, _MANIFEST)
    with alone(directory):
        earlier = read_record(path)
        if earlier is None:
            write_json(path, plain(settings))
        else:
            check_same(directory, earlier, settings)
        maps = MapShards(directory)
        _compute(method, dataset, maps, target, normalize, batch_size, progress)
    return maps


def _compute(
    method: Any,
    dataset: Dataset,
    maps: MapShards,
    target: Any,
    normalize: Any,
    batch_size: int,
    progress: Callable[[int, int], Any] | None,
) -> None:
    """What the directory lacks, shard by shard."""
    missing = maps._missing()
    done = len(maps) - sum(last - first for first, last in map(maps._bounds, missing))
    report = progress or (lambda done, total: None)
    report(done, len(maps))
    for index in missing:
        first, last = maps._bounds(index)
        rows = dataclasses.replace(
            dataset, images=dataset.images[first:last], labels=dataset.labels[first:last]
        )
        batches = data.pipeline(rows, batch_size, training=False, normalize=normalize)
        aside = os.path.join(maps.directory, _UNFINISHED)
        shape = (last - first, *maps.shape[1:])
        shard = np.lib.format.open_memmap(aside, mode="w+", dtype=maps.dtype, shape=shape)
        for stop, found in _in_turn(method, batches, target):
            shard[stop - len(found) : stop] = found
            report(done + stop, len(maps))
        shard.flush()
        del shard  # Closes it.
        os.replace(aside, maps._path(index))
        done += last - first


def _in_turn(method: Any, batches: Any, target: Any) -> Iterator[tuple[int, np.ndarray]]:
    """(how many images are done, the maps of the last of them), batch by batch."""
    done = 0
    for x, y in batches:
        found = np.asarray(method(x, y if target == _LABEL else target))
        if found.shape != tuple(x.shape[:3]):
            raise ArgumentError(
                f"method: got maps of shape {found.shape} for images {tuple(x.shape)}; expected "
                f"{tuple(x.shape[:3])}, a number for every pixel."
            )
        done += len(found)
        yield done, found


def _settings(
    method: Any, dataset: Any, target: Any, normalize: Any, shard_size: int, name: str | None
) -> dict[str, Any]:
    """All that the maps depend on, as JSON holds it."""
    if not isinstance(dataset, Dataset):
        raise ArgumentError(
            f"dataset: got a {type(dataset).__name__}; expected a tfgrad.data.Dataset, e.g. "
            "tfgrad.data.from_arrays(images, labels)."
        )
    if target is not None and target != _LABEL:
        target = integer("target", target, lowest=0)
    return {
        **_described(method, name),
        "images": array_digest(dataset.images),
        "labels": array_digest(dataset.labels) if target == _LABEL else None,
        "normalize": normalize and [np.asarray(part).tolist() for part in normalize],
        "target": target,
        "shape": [len(dataset), *dataset.image_shape[:2]],
        "shard_size": shard_size,
    }


def _described(method: Any, name: str | None) -> dict[str, Any]:
    """Which method of which network."""
    if not callable(method):
        raise ArgumentError(
            f"method: got a {type(method).__name__}; expected a function of (images, classes), "
            "e.g. tfgrad.saliency.get(name)(model)."
        )
    if name is not None:
        return {"method": name}
    if not hasattr(method, "network") or not hasattr(method, "options"):
        raise ArgumentError(
            "name: got None with a bare function as method, which nothing tells from others; "
            "expected a name that changes whenever the function's maps do."
        )
    return {
        "method": type(method).__name__,
        "options": method.options(),
        "layers": layers_digest(method.network),
        "weights": weights_digest(method.network),
    }
