"""Atomic writing of files and directories: under a temporary name, then renamed.

A reader sees the previous content or the whole new one, and a failed writer leaves the previous.
Every failure is an `OSError` whose `filename` is the file that was to be written.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfgrad.errors import ArgumentError, WriteError
from tfgrad.internal import keras_private

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


# Of a name, in bytes, in every common file system.
_LONGEST_NAME = 255

_TEMPORARY = ".tmp-"
_ATTEMPTS = 20

_BINARY = getattr(os, "O_BINARY", 0)  # of Windows

_ADVICE = {
    errno.ENOSPC: "with more free space, or in another directory",
    errno.EDQUOT: "with a larger quota, or in another directory",
    errno.EFBIG: "with a higher limit of file sizes (ulimit -f), or in another directory",
}


def _temporary(path: str, suffix: str = "") -> str:
    """A name beside `path` that no other process or thread uses."""
    directory, name = os.path.split(path)
    ending = f"{_TEMPORARY}{os.getpid()}-{threading.get_ident()}{suffix}"
    while len(os.fsencode(name + ending)) > _LONGEST_NAME and len(name) > 1:
        name = name[:-1]
    return os.path.join(directory, name + ending)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """An `OSError` of the block about writing holds this path.

    Python leaves it out where writing fails, and names the temporary file where renaming does.
    """
    path = os.fspath(path)
    try:
        yield
    except OSError as error:
        named = str(error.filename or path)
        own = named.startswith(path) or _TEMPORARY in named
        if own and error.errno is not None and not isinstance(error, WriteError):
            error.filename = path
            if error.filename2 is not None:  # the target of a renaming
                del error.filename2
        raise


def cannot_write(error: OSError, argument: str, path: str, kept: str = "") -> WriteError:
    """The error that says which path cannot be written, why, what is kept and what to do.

    Args:
        error: What the writer raised.
        argument: The argument that named the path.
        path: The path.
        kept: A clause on what survives, such as "the state of epoch 3 is kept in runs/state".
    """
    reason = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
            reason += f", {free / 2**20:.1f} MiB free"
    advice = _ADVICE.get(error.errno or 0, "at a path where you may create files")
    return WriteError(
        f"{argument}: got {path!r}, which cannot be written ({reason}); expected enough space and "
        f"permission{f'; {kept}' if kept else ''}. Try again {advice}.",
        error.errno,
        error.strerror,
        path,
    )


def is_full(error: OSError) -> bool:
    """Whether a file cannot be written for lack of space: a full disk, a quota, a limit."""
    return error.errno in _ADVICE


def disk_error(error: BaseException) -> OSError | None:
    """What an error of TensorFlow, which has no errno, says about a full disk; None otherwise."""
    for number in _ADVICE:
        if os.strerror(number) in str(error):
            return OSError(number, os.strerror(number))
    return None


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str], suffix: str = "") -> Iterator[str]:
    """A temporary name to write to; renamed to `path` if the block ends without an error.

    The content is on the disk before the renaming, so that a crash of the machine leaves the old
    file or the new one, too.

    Args:
        path: The file. An existing one stays unchanged until it is replaced.
        suffix: Ending of the temporary name, for writers that choose a format by it.

    Raises:
        OSError: Raised by the block or by the renaming; the temporary file is removed.
    """
    path = os.fspath(path)
    temporary = _temporary(path, suffix)
    try:
        with naming(path):
            yield temporary
            _synchronise(temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def _synchronise(path: str) -> None:
    """Wait until a file is on the disk; what could not be written raises here at the latest."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(directory: str | os.PathLike[str], pattern: str = "*") -> None:
    """Remove the temporary files that killed writers of files like `pattern` left behind.

    To be called while no other process writes them.
    """
    for path in glob.glob(
        os.path.join(glob.escape(os.fspath(directory)), f"{pattern}{_TEMPORARY}*")
    ):
        with contextlib.suppress(OSError):  # on Windows, a file that another process has open
            os.remove(path)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8 atomically."""
    with replaced(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a binary file atomically."""
    with replaced(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write content as indented JSON atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_arrays(path: str | os.PathLike[str], **arrays: Any) -> None:
    """Write arrays to an .npz file atomically."""
    with replaced(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def write_weights(path: str | os.PathLike[str], model: keras.Model) -> None:
    """Write the whole state of a model to a .weights.h5 file atomically.

    The HDF5 library ends the process if it cannot write; so the file is made in memory, where it
    takes the size of the state once more.
    """
    content = keras_private.weights_file(model)
    with replaced(path) as temporary, open(temporary, "wb") as file:
        file.write(content.getbuffer())


def write_model(path: str | os.PathLike[str], model: keras.Model) -> None:
    """Write a .keras file atomically; weights are in memory once more, as in `write_weights`."""
    with replaced(path) as temporary:
        # Keras would put a file of the HDF5 library beside one whose name it knows.
        unnamed = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
        with open(unnamed, "wb") as file:
            keras_private.write_model_file(model, file)


@contextlib.contextmanager
def replaced_directory(path: str | os.PathLike[str]) -> Iterator[str]:
    """A new directory; renamed to `path` if the block ends without an error.

    Those that killed processes left beside `path` are removed.

    Args:
        path: The directory. An existing one stays unchanged until it is replaced.

    Raises:
        OSError: Raised by the block or by the renaming; `path` is then unchanged.
    """
    path = os.path.normpath(path)
    temporary = _temporary(path)
    for left in glob.glob(f"{glob.escape(path)}{_TEMPORARY}*"):
        with contextlib.suppress(OSError), _locked(left) as abandoned:
            if abandoned:
                shutil.rmtree(left, ignore_errors=True)
    name, _, ending = temporary.rpartition(_TEMPORARY)
    unlocked = f"{name}.new-{ending}"  # which no other process removes
    try:
        os.makedirs(unlocked)
        with naming(path), _locked(unlocked):
            os.rename(unlocked, temporary)
            yield temporary
            _rename_over(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(unlocked, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[bool]:
    """Hold the lock of a directory, which the kernel releases when the process ends.

    Yields:
        Whether it is held; False if another process holds it, or where there are no such locks.
    """
    if fcntl is None:
        yield False
        return
    descriptor = os.open(directory, os.O_RDONLY)
    held = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def _rename_over(directory: str, path: str) -> None:
    """Rename a directory to one that may exist, which is removed after that.

    Another process may do the same at the same time: one of the two directories stays.
    """
    old = f"{path}.old-{os.getpid()}-{threading.get_ident()}"
    for left in reversed(range(_ATTEMPTS)):
        try:
            if os.path.isdir(path):
                os.rename(path, old)
            os.rename(directory, path)
            break
        except BaseException as error:
            with contextlib.suppress(OSError):  # nothing was moved, or another one is there
                os.rename(old, path)
            if os.path.isdir(path):
                shutil.rmtree(old, ignore_errors=True)
            between = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
            if not left or not isinstance(error, OSError) or error.errno not in between:
                raise
    shutil.rmtree(old, ignore_errors=True)


def make_directory(path: str | os.PathLike[str]) -> str:
    """The path of a directory, which is created if it does not exist.

    Raises:
        ArgumentError: It cannot be created.
    """
    path = os.fspath(path)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ArgumentError(
            f"directory: got {path!r}, which cannot be written ({error.strerror}); expected a "
            "writable one."
        ) from error
    return path


@contextlib.contextmanager
def alone(directory: str, name: str = ".lock") -> Iterator[None]:
    """Hold a lock file of a directory: one process or thread at a time runs the block.

    Windows has no such lock; there the block runs at once.
    """
    with open(os.path.join(directory, name), "w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
