"""Maps that `python -m apps.map_dataset` has written, checked against a method and a data set."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from tfgrad import data
from tfgrad.data.dataset import Dataset
from tfgrad.errors import ArgumentError, ResumeError
from tfgrad.evaluation.digests import plain
from tfgrad.evaluation.map_tests.map_shards import MapShards
from tfgrad.evaluation.map_tests.pixel_removal import finite_rows
from tfgrad.evaluation.records import check_same

# Of the largest value of a map: the served graph and the live one round differently.
_CLOSE = 1e-3
_PREDICTED = "predicted"


def read(directory: str | os.PathLike[str], dataset: Dataset | None) -> MapShards:
    """The maps of a directory, whoever wrote them.

    Args:
        directory: The directory.
        dataset: The images, of whose number and size the maps must be; None for no check.

    Raises:
        ArgumentError: The directory holds no maps.
        ResumeError: They are of other images, or damaged.
    """
    maps = MapShards(directory)
    if dataset is not None:
        shape = (len(dataset), *dataset.image_shape[:-1])
        check_same(maps.directory, {"shape": list(maps.shape)}, {"shape": shape})
    return maps


def checked(
    method: Any,
    dataset: Any,
    directory: str,
    target: Any,
    normalize: Any,
    name: str | None,
) -> MapShards:
    """The maps of a directory of records, which must be those of a method on a data set.

    Args:
        method: The method, or a function.
        dataset: The images.
        directory: The directory.
        target: The target, as `saved_maps` takes it.
        normalize: (mean, std) of `data.pipeline`.
        name: The name of a plain function.

    Raises:
        ResumeError: Method, options, target, size or values differ.
    """
    maps = read(directory, dataset)
    wanted: dict[str, Any] = {
        "method": name or getattr(method, "name", None),
        "target": _PREDICTED if target is None else target,
    }
    if name is None:
        wanted["options"] = method.options()
    check_same(directory, {key: maps.settings.get(key) for key in wanted}, plain(wanted))
    _check_values(method, dataset, maps, target, normalize)
    return maps


def _check_values(
    method: Any, dataset: Dataset, maps: MapShards, target: Any, normalize: Any
) -> None:
    """Compare the first finite map of the first shard with the method's own."""
    stored = maps[: maps.settings["shard_size"]]
    found = np.flatnonzero(finite_rows(stored))
    if not len(found):
        return
    first = int(found[0])
    rows = slice(first, first + 1)
    one = dataclasses.replace(dataset, images=dataset.images[rows], labels=dataset.labels[rows])
    ((x, y),) = data.pipeline(one, 1, training=False, normalize=normalize)
    own = np.asarray(method(x, y if target == "label" else target))[0]
    if own.shape != stored[first].shape:
        raise ArgumentError(
            f"method: got a map of shape {own.shape}; expected {stored[first].shape}, as in "
            f"{maps.directory!r}."
        )
    error, largest = np.abs(own - stored[first]).max(), np.abs(own).max()
    if not error <= _CLOSE * largest:
        raise ResumeError(
            f"directory: got {maps.directory!r}, whose map of image {first} differs by {error:.2g} "
            f"from the method's, whose largest value is {largest:.2g}; expected the maps of this "
            "network, data set and normalisation. Choose another directory, or make the maps again."
        )
