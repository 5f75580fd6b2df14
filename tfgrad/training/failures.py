"""Errors of a training whose cause is certain, in words that name it and say what is kept.

Every other error, one of the network's own code for instance, passes unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfgrad import distribution
from tfgrad.errors import DataError, TfgradError, WorkerError, WriteError
from tfgrad.gradients.labels import NOT_ONE_HOT, NOT_WHOLE, SEVERAL
from tfgrad.internal import files, gradient_registry
from tfgrad.training.batch_checks import NOT_FINITE, OUT_OF_RANGE

_ASSERTIONS = (NOT_FINITE, OUT_OF_RANGE, NOT_WHOLE, NOT_ONE_HOT, SEVERAL)
_OUT_OF_MEMORY = "OOM when allocating"
# TensorFlow's writers end their messages so.
_PATH = re.compile(r"(\S+); [A-Z]")


def with_clear_errors(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a method of a Keras model; failures whose cause is certain are named.

    Args:
        function: The method.
        *args: Its arguments.
        **kwargs: Its keyword arguments; the callbacks among them may tell which state is `kept`.

    Raises:
        DataError: An assertion about a batch failed.
        WorkerError: Another worker of the run is lost.
        WriteError: A disk is full.
        ModelError: A gradient is looked up under a name that shap left behind.
    """
    try:
        with gradient_registry.explained():
            return function(*args, **kwargs)
    except tf.errors.OpError as error:
        clear = named(error, _kept(kwargs))
        if clear is None:
            if _OUT_OF_MEMORY in error.message:
                error.add_note("Memory ran out: try a smaller batch_size.")
            raise
        raise clear from error
    except WriteError as error:
        kept = _kept(kwargs)
        if not kept or kept in str(error):
            raise
        raise WriteError(
            f"{error} Of the training, {kept}.", error.errno, error.strerror, error.filename
        ) from error


def named(error: tf.errors.OpError, kept: str = "") -> TfgradError | None:
    """The error of tfgrad for one of TensorFlow whose cause is certain; None for any other.

    Args:
        error: The error.
        kept: A clause that tells which state is saved.
    """
    return _of_assertion(error) or _of_worker(error, kept) or _of_disk(error, kept)


def _of_assertion(error: tf.errors.OpError) -> DataError | None:
    if isinstance(error, tf.errors.InvalidArgumentError):
        message = error.message.replace("\\'", "'")  # as printed inside of quotes
        for text in _ASSERTIONS:
            at = message.find(text)
            if at >= 0:
                found = " ".join(message[at:].split("\n\t")[0].split())
                for printed, plain in (("[", ""), ("]", ""), (" : ", ": "), (" ; ", "; ")):
                    found = found.replace(printed, plain)
                return DataError(f"{found}. Check the data set before training.")
    return None


def _of_worker(error: tf.errors.OpError, kept: str) -> WorkerError | None:
    lost = distribution.lost_worker(error)
    if lost is None:
        return None
    return WorkerError(
        f"TF_CONFIG: lost {lost}, which has ended or cannot be reached; expected every worker to "
        f"run until the end{f'; {kept}' if kept else ''}. Its own output tells why it ended. Start "
        "the same command on all workers again, which resumes from a saved state."
    )


def _of_disk(error: tf.errors.OpError, kept: str) -> WriteError | None:
    cause = files.disk_error(error)
    if cause is None:
        return None
    path = _PATH.search(error.message)
    return files.cannot_write(cause, "path", path[1] if path else "a file", kept)


def _kept(kwargs: dict[str, Any]) -> str:
    """Which state is saved, as `callbacks.Backup` and `StopOnNonFinite` tell."""
    hooks = kwargs.get("callbacks") or ()
    for hook in getattr(hooks, "callbacks", hooks if isinstance(hooks, list | tuple) else [hooks]):
        kept = getattr(hook, "kept", None)
        if kept is not None:
            return str(kept() if callable(kept) else kept)
    return ""
