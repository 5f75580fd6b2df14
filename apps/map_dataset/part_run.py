"""The maps of one part of a data set: read, explained in batches, written as one shard each."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import DataError
from tfgrad.evaluation.map_tests import map_records, record_formats

from . import image_sources, storage
from .explainer import LABEL, Explainer, Model, targets_of
from .image_sources import Item, Part, Source

_ASSERTION = "assertion failed: "
DONE = "done"  # the directory of what is known of finished parts

Batch = list[tuple[Item, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Job:
    """What workers need; an object of its class is passed to them.

    Attributes:
        model: Which model, and how.
        source: The images.
        target: `"predicted"`, `"label"` or a class.
        batch_size: Number of images per call of the model.
        formats: Formats of the shards.
        directory: Directory of the output.
        parts: Number of parts.
        schemas: {method: {column: (type, shape)}}.
    """

    model: Model
    source: Source
    target: str | int
    batch_size: int
    formats: tuple[str, ...]
    directory: str
    parts: int
    schemas: Mapping[str, record_formats.Schema] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Done:
    """What is known of a finished part.

    Attributes:
        index: Number of the part.
        images: Number of its images, readable or not.
        not_finite: Number of maps with NaN or infinite values.
        broken: {"index", "key", "reason"} of each image without a map.
    """

    index: int
    images: int
    not_finite: int = 0
    broken: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def schema(columns: Mapping[str, Any], has_labels: bool) -> dict[str, Any]:
    """All columns of a method's shards."""
    known: dict[str, Any] = {"index": ("int64", ()), "key": ("string", ())}
    if has_labels:
        known["label"] = ("int64", ())
    return known | dict(columns)


def marker(job: Job, index: int) -> str:
    """The file that is written once a part is finished."""
    return storage.join(job.directory, DONE, f"{index:05d}.json")


def run(job: Job, part: Part, explainer: Explainer) -> Done:
    """Compute and write one part.

    Nothing of it has its final name before all of it is computed; the marker follows the shards.

    Raises:
        DataError: A class that is to be explained does not exist, for every image of the part.
        OSError: A shard cannot be written.
    """
    done = Done(part.index, part.last - part.first)
    with contextlib.ExitStack() as stack:
        writers = {
            method: [
                stack.enter_context(_shard(job, part, method, kind, columns))
                for kind in job.formats
            ]
            for method, columns in job.schemas.items()
        }
        for batch in _batches(job, part, explainer, done):
            for rows, found in _explained(job, explainer, batch, done):
                for method, columns in found.items():
                    maps = columns[map_records.MAPS].reshape(len(rows), -1)
                    done.not_finite += int((~np.isfinite(maps).all(-1)).sum())
                    known = {
                        "index": [item.index for item in rows],
                        "key": [item.key for item in rows],
                        "label": [item.label for item in rows],
                    }
                    for writer in writers[method]:
                        writer.add(known | columns)
    storage.write_text(marker(job, part.index), json.dumps(dataclasses.asdict(done)) + "\n")
    return done


@contextlib.contextmanager
def _shard(
    job: Job, part: Part, method: str, kind: str, columns: record_formats.Schema
) -> Iterator[record_formats.Writer]:
    name = map_records.shard_name(part.index, job.parts, kind)
    path = storage.join(job.directory, method, name)
    with (
        storage.replaced(path, record_formats.SUFFIXES[kind]) as temporary,
        record_formats.writer(temporary, kind, columns) as writer,
    ):
        yield writer


def _batches(job: Job, part: Part, explainer: Explainer, done: Done) -> Iterator[Batch]:
    """Readable images with their pixels; the last batch may be smaller."""
    height, width, channels = explainer.shape
    decode = decoder(job.source, (height, width), channels)
    batch: Batch = []
    for item in job.source.read(part):
        if item.reason is not None:
            _leave_out(done, item, item.reason)
            continue
        try:
            pixels = decode(item.content)
        except (tf.errors.OpError, DataError) as error:
            _leave_out(done, item, getattr(error, "message", None) or str(error))
            continue
        batch.append((item, image_sources.in_range(pixels, explainer.image_range)))
        if len(batch) == job.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _explained(
    job: Job, explainer: Explainer, batch: Batch, done: Done
) -> Iterator[tuple[Sequence[Item], dict[str, dict[str, np.ndarray]]]]:
    """(items, columns) of a batch, or of its images one by one if the model rejects one of them."""
    items = [item for item, _ in batch]
    targets = targets_of(job.target, [item.label for item in items])
    if job.target == LABEL and (targets < 0).any():
        # −1 would explain the predicted class in place of the label.
        for item in (item for item in items if item.label < 0):
            _leave_out(done, item, f"label: got {item.label}; expected a class of the model")
        batch = [pair for pair in batch if pair[0].label >= 0]
        if batch:
            yield from _explained(job, explainer, batch, done)
        return
    try:
        yield items, explainer.explain(np.stack([pixels for _, pixels in batch]), targets)
    except tf.errors.InvalidArgumentError as error:
        if len(batch) == 1:
            _leave_out(done, items[0], error.message)
            return
        for pair in batch:
            yield from _explained(job, explainer, [pair], done)


def _leave_out(done: Done, item: Item, reason: str) -> None:
    done.broken.append({"index": item.index, "key": item.key, "reason": _in_a_line(reason)})


def _in_a_line(reason: str) -> str:
    """What an error says, without the node of the graph that it came from."""
    lines = [line.strip() for line in reason.splitlines()]
    failed = [line for line in lines if _ASSERTION in line]
    lines = failed or [line for line in lines if line and not line.endswith("execution error:")]
    line = lines[0] if lines else "unreadable"
    line = line.rpartition(_ASSERTION)[2].rpartition("}}")[2].split(" [Op:")[0]
    return line.strip(" []").replace("] [", " ")[:1000]


_decoders: dict[Any, image_sources.Decode] = {}


def decoder(source: Source, size: image_sources.Size, channels: int) -> image_sources.Decode:
    """The function from an image's content to its pixels, traced once per process."""
    key = source, size, channels
    if key not in _decoders:
        _decoders.clear()
        _decoders[key] = source.pixels(size, channels)
    return _decoders[key]
