"""The work directory of a run: what was asked, with which versions, and what came of it."""

import json
import os
import platform
import sys

import keras
import numpy as np
import tensorflow as tf

import tfgrad
from tfgrad.errors import ArgumentError, ResumeError

# What a directory may hold before its run has finished an epoch: nothing that could be lost.
_BEFORE_THE_FIRST_EPOCH = {"run.json", "run.json.tmp", "history.jsonl", "tensorboard"}

# Flags that say where and how loudly, not what is computed.
NOT_COMPARED = ("work_dir", "resume", "data_dir", "download", "progress")


def open_directory(path, resolved_flags, resume):
    """Make or re-open a work directory and write `run.json` in it.

    A run that finished no epoch, because of a wrong flag for instance, is in nobody's way.

    Args:
        path: the directory.
        resolved_flags: the app's flags, {name: value}.
        resume: False puts an earlier run aside as `<path>.old-1`, -2, …

    Raises:
        ArgumentError: the directory cannot be written.
        ResumeError: it holds a run under other flags.
    """
    path = os.path.normpath(path)
    record = os.path.join(path, "run.json")
    try:
        if not resume and os.path.exists(record):
            number = 1
            while os.path.exists(f"{path}.old-{number}"):
                number += 1
            os.rename(path, f"{path}.old-{number}")
        if os.path.exists(record) and set(os.listdir(path)) - _BEFORE_THE_FIRST_EPOCH:
            _check_same(path, record, resolved_flags)
        os.makedirs(path, exist_ok=True)
        write_json(record, {"flags": resolved_flags, "versions": versions(), "argv": sys.argv[1:]})
    except OSError as error:
        raise ArgumentError(
            f"--work_dir: {path!r} cannot be written ({error.strerror}); choose another directory."
        ) from error


def write_json(path, content):
    """Write aside and rename."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path, text):
    """Write aside and rename."""
    with open(f"{path}.tmp", "w") as file:
        file.write(text)
    os.replace(f"{path}.tmp", path)


def read_json(path):
    """The content of a JSON file, or None if there is none or it is damaged."""
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def versions():
    """What a figure depends on."""
    return {
        "tfgrad": tfgrad.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "devices": [d.device_type for d in tf.config.list_logical_devices()],
    }


def _check_same(path, record, resolved_flags):
    earlier = read_json(record)
    if earlier is None or "flags" not in earlier:
        raise ResumeError(
            f"--work_dir: {record!r} is damaged; remove it, or choose another --work_dir."
        )
    missing = object()
    different = [
        f"--{name} was {earlier['flags'].get(name)!r}, now {value!r}"
        for name, value in json.loads(json.dumps(resolved_flags)).items()
        if name not in NOT_COMPARED and earlier["flags"].get(name, missing) != value
    ]
    if different:
        raise ResumeError(
            f"--work_dir: {path!r} holds a run under other flags: {'; '.join(different)}. "
            "Choose another --work_dir, or --noresume to put that run aside and start anew."
        )
