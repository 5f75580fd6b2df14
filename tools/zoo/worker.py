"""One model in a process of its own: `python -m tools.zoo.worker NAME FILE` writes a JSON record.

A record is written after every check, so that a process that dies tells at which one. With the
number of its parent process as a third argument, it ends when that process has ended.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any

# A process that dies inside TensorFlow says nothing; the last record names the check it was at.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf

from tfgrad.errors import TfgradError

from . import checks, models, verdicts
from .entries import ENTRIES, Entry
from .parent import watch

# (check, function, dtype) in the order of the run; a dtype is set before the model is built.
PLAN = (
    ("float32", checks.completeness, "float32"),
    ("maps", checks.maps, "float32"),
    ("export", checks.export, "float32"),
    ("penalty", checks.penalty, "float32"),
    ("float64", checks.completeness, "float64"),
    ("difference", checks.difference, "float64"),
)


def main() -> None:
    """Check the model that the command line names."""
    name, path, *parent = sys.argv[1:]
    if parent:
        watch(int(parent[0]))
    models.load_all()
    entry = ENTRIES[name]
    record: dict[str, Any] = {"checks": {}}

    def write() -> None:
        with open(path, "w") as file:
            json.dump(record, file, indent=1)

    subject: checks.Subject | None = None
    dtype = ""
    for check, function, wanted in (step for step in PLAN if step[0] not in entry.skipped):
        record["at"] = check
        write()
        start = time.time()
        if wanted != dtype:
            subject, dtype = None, wanted
            made = _attempt(_built, entry, wanted, record)
            if isinstance(made, checks.Subject):
                subject = made
            else:
                record["build" if wanted == "float32" else "build_float64"] = made
        if subject is None:
            if wanted == "float32":
                break
            why = verdicts.message(record["build_float64"], 1500)
            record["checks"][check] = {"message": f"not built in float64: {why}"}
            continue
        outcome = _attempt(function, entry, subject)
        record["checks"][check] = outcome | {"seconds": round(time.time() - start, 1)}
    record["at"] = None
    write()


def _built(entry: Entry, dtype: str, record: dict[str, Any]) -> checks.Subject:
    keras.backend.clear_session()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    keras.utils.set_random_seed(0)
    subject = checks.subject(entry)
    record["parameters"] = subject.model.count_params()
    record["inputs"] = [list(t.shape[1:]) for t in tf.nest.flatten(subject.x)]
    return subject


def _attempt(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except TfgradError as error:
        return {"refusal": str(error), "kind": type(error).__name__}
    except Exception as error:
        text = "".join(traceback.format_exception(error)[-6:])
        return {"error": f"{type(error).__name__}: {error}"[:1500], "traceback": text[-3000:]}


if __name__ == "__main__":
    main()
