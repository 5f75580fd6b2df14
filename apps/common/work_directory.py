"""The work directory of a run: its flags, the versions it ran with, and its results."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfgrad
from tfgrad.errors import ResumeError
from tfgrad.internal import files, ownership, regular_files

# What a directory may hold before its run has finished an epoch, and that may be lost.
_BEFORE_THE_FIRST_EPOCH = ("run.json", "history.jsonl", "tensorboard", ownership.LOCK)

# Flags on which no result depends: where a run reads and writes, and what it prints.
NOT_COMPARED = ("work_dir", "resume", "data_dir", "download", "progress")


def open_directory(
    path: str | os.PathLike[str], resolved_flags: Mapping[str, Any], resume: bool
) -> None:
    """Make or re-open a work directory, own it and write `run.json` in it.

    A run that finished no epoch, because of a wrong flag for instance, is replaced. The directory
    belongs to this process until `ownership.release_all`, or until it ends.

    Args:
        path: The directory.
        resolved_flags: The command's flags, {name: value}.
        resume: Whether to continue an earlier run; False renames it to `<path>.old-1`, -2, …

    Raises:
        InUseError: Another process is writing to the directory.
        ResumeError: It holds a run with other flags.
        WriteError: It cannot be written.
    """
    path = os.path.normpath(path)
    record = os.path.join(path, "run.json")
    lock = os.path.join(path, ownership.LOCK)
    try:
        if os.path.isdir(path):
            ownership.own(lock, "--work_dir", path)
        if not resume and os.path.exists(record):
            number = 1
            while os.path.exists(f"{path}.old-{number}"):
                number += 1
            os.rename(path, f"{path}.old-{number}")
        if os.path.exists(record) and any(map(_could_be_lost, os.listdir(path))):
            _check_same(path, record, resolved_flags)
        os.makedirs(path, exist_ok=True)
        ownership.own(lock, "--work_dir", path)
        files.remove_temporaries(path)  # those of a process that was killed
        files.write_json(
            record, {"flags": resolved_flags, "versions": versions(), "argv": sys.argv[1:]}
        )
    except OSError as error:
        raise files.cannot_write(error, "--work_dir", path) from error
    except ResumeError:
        ownership.release(lock)
        raise


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file, or None if there is none or it is damaged.

    Raises:
        OSError: It is there and cannot be read.
    """
    try:
        return regular_files.read_json(path)
    except (FileNotFoundError, NotADirectoryError, regular_files.NotRegularError, ValueError):
        return None


def versions() -> dict[str, Any]:
    """The versions and devices that results depend on."""
    return {
        "tfgrad": tfgrad.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "devices": [d.device_type for d in tf.config.list_logical_devices()],
    }


def _could_be_lost(name: str) -> bool:
    """Whether a file belongs to a run that has finished an epoch."""
    # A killed process leaves the temporary file of run.json behind.
    return name not in _BEFORE_THE_FIRST_EPOCH and not name.startswith("run.json.tmp")


def _check_same(path: str, record: str, resolved_flags: Mapping[str, Any]) -> None:
    earlier = read_json(record)
    if earlier is None or "flags" not in earlier:
        raise ResumeError(
            f"--work_dir: {record!r} is damaged; remove it, or try another --work_dir."
        )
    missing = object()
    different = [
        f"--{name} was {earlier['flags'].get(name)!r}, now {value!r}"
        for name, value in json.loads(json.dumps(resolved_flags)).items()
        if name not in NOT_COMPARED and earlier["flags"].get(name, missing) != value
    ]
    if different:
        raise ResumeError(
            f"--work_dir: {path!r} holds a run with other flags: {'; '.join(different)}. "
            "Try another --work_dir, or --noresume to rename that run and start again."
        )
