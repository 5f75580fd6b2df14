"""The maps of a whole data set, computed once and kept on disk in shards."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfgrad import data
from tfgrad.data.dataset import Dataset
from tfgrad.errors import ArgumentError
from tfgrad.evaluation.digests import array_digest, layers_digest, plain, weights_digest
from tfgrad.evaluation.map_tests import map_records, written_maps
from tfgrad.evaluation.map_tests.map_shards import DTYPE, MANIFEST, MapShards, ShardFiles
from tfgrad.evaluation.records import check_same, read_record
from tfgrad.gradients import targets
from tfgrad.internal.arguments import integer
from tfgrad.internal.files import alone, make_directory, remove_temporaries, replaced, write_json

_LABEL = "label"


def saved_maps(
    method: Callable[[Any, Any], Any] | None,
    dataset: Dataset | None,
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

    Every shard is written under a temporary name and renamed: an interrupted call resumes with the
    shard that was open, and a complete directory is only read. If another process is using the
    directory, the call waits for it (except on Windows, which lacks the lock). Memory does not grow
    with the data set.

    A directory of one method that `python -m apps.map_dataset` has written is only read: its method
    and options, the number and size of its images and its target must be those given here, and its
    first map that of the method to a relative 1e-3.

    Args:
        method: A `tfgrad.saliency` method, or any function of (float images [batch, H, W, C],
            classes) that returns maps [batch, H, W]; series and volumes have other positions. None
            reads what is there, without a comparison.
        dataset: The images; `data.pipeline` passes them to the method, in their order. None only
            where `method` is None.
        directory: The directory of the maps; one for each method, network and data set.
        target: The class whose logit is explained: None for the predicted one, or for the target
            that the method is built for; `"label"`, or a class.
        normalize: (mean, std) per channel, as the network was trained with.
        shard_size: Number of images per file.
        batch_size: Number of images per call of the method; it may differ from call to call.
        name: Name that identifies a plain function, in place of a method's options and weights.
        progress: Called with (images done, images) at the start and after every batch.

    Returns:
        The maps. One that is NaN or infinite is kept, and counted by `left_out`.

    Raises:
        ArgumentError: The method is a plain function without a name, or its maps have another shape
            than the images; an option is out of range; the directory cannot be written.
        ResumeError: The directory holds maps of another method, network, data set or target; the
            message names the settings that differ.
    """
    batch_size = integer("batch_size", batch_size)
    if method is None:
        return written_maps.read(directory, dataset)
    settings = _settings(
        method, dataset, target, normalize, integer("shard_size", shard_size), name
    )
    directory = make_directory(directory)
    path = os.path.join(directory, MANIFEST)
    with alone(directory):
        earlier = read_record(path)
        if earlier is not None and map_records.is_written(earlier):
            return written_maps.checked(method, dataset, directory, target, normalize, name)
        if earlier is None:
            write_json(path, plain(settings))
        else:
            check_same(directory, earlier, settings)
        _remove_unfinished(directory)
        maps = MapShards(directory)
        files = ShardFiles(directory, maps.settings)
        _compute(method, dataset, files, target, normalize, batch_size, progress)
    return maps


def _remove_unfinished(directory: str) -> None:
    """Remove the temporary files of calls that were killed; to be called by the lock's holder."""
    remove_temporaries(directory, "*.npy")
    with contextlib.suppress(OSError):
        os.remove(os.path.join(directory, "unfinished.npy"))  # of version 0.1


def _compute(
    method: Any,
    dataset: Any,
    files: ShardFiles,
    target: Any,
    normalize: Any,
    batch_size: int,
    progress: Callable[[int, int], Any] | None,
) -> None:
    """Compute the missing shards, one after the other."""
    missing, count = files.missing(), files.shape[0]
    done = count - sum(last - first for first, last in map(files.bounds, missing))
    report = progress or (lambda done, total: None)
    report(done, count)
    for index in missing:
        first, last = files.bounds(index)
        rows = dataclasses.replace(
            dataset, images=dataset.images[first:last], labels=dataset.labels[first:last]
        )
        batches = data.pipeline(rows, batch_size, training=False, normalize=normalize)
        shape = (last - first, *files.shape[1:])
        with replaced(files.path(index), suffix=".npy") as temporary, open(temporary, "wb") as file:
            # Written, not mapped into memory, where a full disk ends the process.
            description = {"descr": DTYPE.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, description)
            for stop, found in _batch_maps(method, batches, target):
                file.write(np.ascontiguousarray(found, DTYPE).tobytes())
                report(done + stop, count)
        done += last - first


def _batch_maps(method: Any, batches: Any, target: Any) -> Iterator[tuple[int, np.ndarray]]:
    """(number of images done, the maps of the last batch), batch by batch."""
    done = 0
    for x, y in batches:
        found = np.asarray(method(x, y if target == _LABEL else target))
        if found.shape != tuple(x.shape[:-1]):
            raise ArgumentError(
                f"method: got maps of shape {found.shape} for images {tuple(x.shape)}; expected "
                f"{tuple(x.shape[:-1])}, a number for every pixel."
            )
        done += len(found)
        yield done, found


def _settings(
    method: Any, dataset: Any, target: Any, normalize: Any, shard_size: int, name: str | None
) -> dict[str, Any]:
    """Everything that the maps depend on, in a form that JSON can hold."""
    if not isinstance(dataset, Dataset):
        raise ArgumentError(
            f"dataset: got a {type(dataset).__name__}; expected a tfgrad.data.Dataset. Try "
            "tfgrad.data.from_arrays(images, labels)."
        )
    own = getattr(method, "target", None)
    if target is not None and isinstance(own, targets.Target):
        raise ArgumentError(
            f"target: got {target!r} for a method built with target={own!r}; expected None, which "
            "leaves that of the method; or try the method without target=."
        )
    if target is not None and target != _LABEL:
        target = integer("target", target, lowest=0)
    return {
        **_described(method, name),
        "images": array_digest(dataset.images),
        "labels": array_digest(dataset.labels) if target == _LABEL else None,
        "normalize": normalize and [np.asarray(part).tolist() for part in normalize],
        "target": target,
        "shape": [len(dataset), *dataset.image_shape[:-1]],
        "shard_size": shard_size,
    }


def _described(method: Any, name: str | None) -> dict[str, Any]:
    """The method and the network."""
    if not callable(method):
        raise ArgumentError(
            f"method: got a {type(method).__name__}; expected a function of (images, classes). Try "
            "tfgrad.saliency.get(name)(model)."
        )
    if name is not None:
        return {"method": name}
    if not hasattr(method, "network") or not hasattr(method, "options"):
        raise ArgumentError(
            "name: got None with a plain function as method, which cannot be told from others; "
            "expected a name that changes whenever the function's maps do."
        )
    target = getattr(method, "target", None)
    return {
        "method": type(method).__name__,
        "options": method.options(),
        **({} if target is None else {"explains": targets.to_config(target)}),
        "layers": layers_digest(method.network),
        "weights": weights_digest(method.network),
    }
