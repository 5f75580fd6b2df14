"""Files and directories that appear whole or not at all: written aside, then renamed."""

from __future__ import annotations

import contextlib
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

_LOCK = ".lock"


def _temporary(path: str, suffix: str = "") -> str:
    """A name beside `path` that no other process or thread uses."""
    return f"{path}.tmp-{os.getpid()}-{threading.get_ident()}{suffix}"


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str], suffix: str = "") -> Iterator[str]:
    """A temporary name to write; renamed to `path` if the block ends without an error.

    Args:
        path: the file; one that exists stays as it is until it is replaced.
        suffix: an ending that the temporary name must have, for writers that choose by it.

    Raises:
        OSError: as the block or the renaming raises it; the temporary file is removed.
    """
    path = os.fspath(path)
    temporary = _temporary(path, suffix)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, in UTF-8, whole or not at all."""
    with replaced(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all."""
    with replaced(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write content as indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def replaced_directory(path: str | os.PathLike[str]) -> Iterator[str]:
    """A new directory; renamed to `path`, in place of what is there, if the block ends well.

    Raises:
        OSError: as the block or the renaming raises it; `path` is then as it was.
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
    """Rename a directory to one that may exist already, which is removed once all went well."""
    if not os.path.isdir(path):
        os.rename(directory, path)
        return
    old = f"{path}.old-{os.getpid()}"
    os.rename(path, old)
    try:
        os.rename(directory, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old)


def make_directory(path: str | os.PathLike[str]) -> str:
    """The directory, made if need be.

    Raises:
        ArgumentError: it cannot be made.
    """
    path = os.fspath(path)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ArgumentError(
            f"directory: {path!r} cannot be written ({error.strerror}); choose another."
        ) from error
    return path


@contextlib.contextmanager
def alone(directory: str) -> Iterator[None]:
    """Wait until nobody else is at work on a directory, and keep others waiting meanwhile.

    Windows has no such lock, so that there nobody waits.
    """
    with open(os.path.join(directory, _LOCK), "w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
