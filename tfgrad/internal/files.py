"""Atomic writing of files and directories: under a temporary name, then renamed.

A reader sees the previous content or the whole new one, and a failed writer leaves the previous.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import threading
from collections.abc import Iterator
from typing import Any

from tfgrad.errors import ArgumentError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def _temporary(path: str, suffix: str = "") -> str:
    """A name beside `path` that no other process or thread uses."""
    return f"{path}.tmp-{os.getpid()}-{threading.get_ident()}{suffix}"


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str], suffix: str = "") -> Iterator[str]:
    """A temporary name to write to; renamed to `path` if the block ends without an error.

    Args:
        path: The file. An existing one stays unchanged until it is replaced.
        suffix: Ending of the temporary name, for writers that choose a format by it.

    Raises:
        OSError: Raised by the block or by the renaming; the temporary file is removed.
    """
    path = os.fspath(path)
    temporary = _temporary(path, suffix)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def remove_temporaries(directory: str | os.PathLike[str], pattern: str = "*") -> None:
    """Remove the temporary files that killed writers of files like `pattern` left behind.

    To be called while no other process writes them.
    """
    for path in glob.glob(os.path.join(glob.escape(os.fspath(directory)), f"{pattern}.tmp-*")):
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


@contextlib.contextmanager
def replaced_directory(path: str | os.PathLike[str]) -> Iterator[str]:
    """A new directory; renamed to `path` if the block ends without an error.

    Args:
        path: The directory. An existing one stays unchanged until it is replaced.

    Raises:
        OSError: Raised by the block or by the renaming; `path` is then unchanged.
    """
    path = os.path.normpath(path)
    temporary = _temporary(path)
    try:
        os.makedirs(temporary)
        yield temporary
        _rename_over(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename_over(directory: str, path: str) -> None:
    """Rename a directory to one that may exist, which is removed after that."""
    if not os.path.isdir(path):
        os.rename(directory, path)
        return
    old = f"{path}.old-{os.getpid()}-{threading.get_ident()}"
    os.rename(path, old)
    try:
        os.rename(directory, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old)


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
