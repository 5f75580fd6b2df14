"""The output directory: unfinished beside its final place, resumed, and renamed once complete."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tfgrad.errors import ArgumentError, ResumeError
from tfgrad.evaluation.map_tests import map_records
from tfgrad.evaluation.map_tests.map_shards import MANIFEST
from tfgrad.evaluation.records import check_same, read_record
from tfgrad.internal import files, ownership, regular_files

from . import part_run, storage
from .part_run import DONE, Job

UNFINISHED = ".unfinished"
PLAN, BROKEN, SUMMARY = "plan.json", "broken.jsonl", "summary.json"
_MARKER_BYTES = 1 << 30


def working(out: str) -> str:
    """The directory that a run writes to.

    Behind a URL it is the final one, as object stores cannot rename directories; there the summary
    is written last.
    """
    return out if storage.is_remote(out) else os.path.normpath(out) + UNFINISHED


def open_directory(out: str, plan: Mapping[str, Any], overwrite: bool) -> str:
    """Make the directory of a run or re-open that of an interrupted one, and own it.

    Args:
        out: The final directory.
        plan: What every map depends on.
        overwrite: Whether to remove a finished or unfinished output.

    Returns:
        The directory to write to.

    Raises:
        ArgumentError: There is a finished output, or something else.
        ResumeError: An unfinished output is of another plan.
        InUseError: Another process writes to it.
        WriteError: It cannot be written.
    """
    directory = working(out)
    _check_free(out, overwrite)
    try:
        _own(directory, out)
        if overwrite:
            for name in storage.names(directory):
                if name != ownership.LOCK:
                    storage.remove(storage.join(directory, name))
        record = storage.join(directory, PLAN)
        if (earlier := _read(record)) is not None:
            try:
                check_same(directory, earlier, plan)
            except ResumeError as error:
                raise ResumeError(f"{error} Or start again with --overwrite.") from error
        for method in plan["methods"]:
            storage.make_directory(storage.join(directory, method))
        storage.make_directory(storage.join(directory, DONE))
        if not storage.is_remote(directory):
            for name in ("", DONE, *plan["methods"]):  # what a killed process left
                files.remove_temporaries(storage.join(directory, name))
        storage.write_text(record, json.dumps(plan, indent=2) + "\n")
    except OSError as error:
        raise files.cannot_write(error, "--out", out) from error
    return directory


def _own(directory: str, out: str) -> None:
    if not storage.is_remote(directory):
        os.makedirs(directory, exist_ok=True)
        ownership.own(storage.join(directory, ownership.LOCK), "--out", out)


def _check_free(out: str, overwrite: bool) -> None:
    """Check that nothing but an output of this command is replaced, and only if that is asked."""
    inside = storage.names(out)
    if storage.is_remote(out):
        finished = SUMMARY in inside
    elif not os.path.lexists(out) or (os.path.isdir(out) and not inside):
        return
    else:
        finished = True
        if not os.path.isdir(out) or SUMMARY not in inside:
            raise ArgumentError(
                f"out: got {out!r}, which holds something else than maps of this command; expected "
                "a new directory; try another one."
            )
    if finished and not overwrite:
        raise ArgumentError(
            f"out: got {out!r}, which holds finished maps; expected a new directory; try another "
            "one, or --overwrite to compute them again."
        )


def finished_parts(job: Job) -> set[int]:
    """The numbers of the parts whose marker and shards are all there."""
    inside = {
        method: set(storage.names(storage.join(job.directory, method))) for method in job.schemas
    }
    markers = set(storage.names(storage.join(job.directory, DONE)))

    def is_whole(index: int) -> bool:
        shards = {map_records.shard_name(index, job.parts, kind) for kind in job.formats}
        own = os.path.basename(part_run.marker(job, index))
        return own in markers and all(shards <= names for names in inside.values())

    return set(filter(is_whole, range(job.parts)))


def finish(job: Job, out: str, manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Write the records of a complete output, and give it its final name.

    Returns:
        The summary.

    Raises:
        ResumeError: A part is missing.
        WriteError: A file cannot be written.
    """
    directory = job.directory
    summary: dict[str, Any] = {"images": 0, "maps": 0, "broken": 0, "not_finite": 0}
    lines: list[str] = []
    for index in range(job.parts):
        done = _read(part_run.marker(job, index))
        if done is None:
            raise ResumeError(
                f"out: got {directory!r} without part {index} of {job.parts}; expected all of "
                "them. Run the same command again, which computes what is missing."
            )
        summary["images"] += done["images"]
        summary["not_finite"] += done["not_finite"]
        lines += [json.dumps(one) for one in done["broken"]]
    summary["broken"] = len(lines)
    summary["maps"] = summary["images"] - len(lines)
    try:
        storage.write_text(storage.join(directory, BROKEN), "".join(f"{x}\n" for x in lines))
        for method, manifest in manifests.items():
            text = json.dumps({**manifest, "broken": len(lines)}, indent=2) + "\n"
            storage.write_text(storage.join(directory, method, MANIFEST), text)
        storage.write_text(storage.join(directory, SUMMARY), json.dumps(summary, indent=2) + "\n")
        for name in (DONE, PLAN):
            storage.remove(storage.join(directory, name))
        if directory != out:
            _rename(directory, out)
    except OSError as error:
        raise files.cannot_write(
            error, "--out", out, f"the maps are kept in {directory}"
        ) from error
    return summary


def _rename(directory: str, out: str) -> None:
    """Give a complete directory its final name; what was there before is removed."""
    if os.path.lexists(out):
        old = f"{os.path.normpath(out)}.old"
        storage.remove(old)
        os.rename(out, old)
        os.rename(directory, out)
        storage.remove(old)
    else:
        os.rename(directory, out)
    ownership.release(storage.join(out, ownership.LOCK))
    storage.remove(storage.join(out, ownership.LOCK))


def _read(path: str) -> dict[str, Any] | None:
    """A record of this command, or None if there is none."""
    if not storage.is_remote(path):
        return read_record(path)
    if not storage.exists(path):
        return None
    return regular_files.parse_json(storage.read(path, regular_files.MAX_JSON_BYTES))


def manifest(
    job: Job,
    method: str,
    metadata: Mapping[str, Any],
    plan: Mapping[str, Any],
    shape: Sequence[int],
) -> dict[str, Any]:
    """What stands beside the shards of a method, and `tfgrad.evaluation.MapShards` reads."""
    columns = job.schemas[method]
    return {
        "format": map_records.FORMAT,
        "method": method,
        "options": metadata.get("methods", {}).get(method),
        "target": job.target,
        "shape": list(shape),
        "shard_size": plan["shard_size"],
        "formats": list(job.formats),
        "columns": {name: [kind, list(sizes)] for name, (kind, sizes) in columns.items()},
        "classes": metadata.get("classes"),
        "model": plan["model"],
        "source": plan["source"],
    }
