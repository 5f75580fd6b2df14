"""Numbered version directories that appear complete or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable

import tensorflow as tf

from tfgrad.errors import ArgumentError, WriteError
from tfgrad.internal import files

_ATTEMPTS = 1000


def publish(
    directory: str,
    write: Callable[[str], None],
    lowest: int = 1,
    sign: Callable[[str, str], None] | None = None,
) -> str:
    """Write the next version of a model and rename it into place.

    Args:
        directory: The model's directory; created if absent.
        write: Function that fills the temporary directory whose path it is given.
        lowest: The least number of the version; it is always above those that exist.
        sign: Function that writes what names the version, called with the temporary directory and
            the path that it is renamed to; again if another writer takes that path first.

    Returns:
        The path of the new version, `directory/<version>`.

    Raises:
        ArgumentError: The directory cannot be written; a `WriteError` if that shows while it is
            being written. Any other error of `write` passes through. Whatever the error, what was
            written and created is removed.
    """
    missing = absent(directory)
    try:
        os.makedirs(directory, exist_ok=True)
        number = max(lowest, highest(directory) + 1)
        # Not a number, so that TensorFlow Serving, which may be watching, does not load it.
        name = f".tmp-{number}-{os.getpid()}-{threading.get_ident()}"
        temporary = os.path.join(directory, name)
        os.mkdir(temporary)
    except OSError as error:
        remove(missing)
        raise ArgumentError(
            f"directory: got {directory!r}, which cannot be written ({error.strerror}); expected a "
            "writable one. Choose a directory in which you may create folders."
        ) from error
    try:
        write(temporary)
        return rename(temporary, directory, number, sign)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        remove(missing)
        # Tracing and graphs raise errors of TensorFlow, too; those of files name the file.
        about_files = isinstance(error, tf.errors.OpError) and temporary in str(error)
        if isinstance(error, OSError) or about_files:
            known = error if isinstance(error, OSError) else files.disk_error(error)
            reason = error if known is None else known.strerror or known
            raise WriteError(
                f"directory: got {directory!r}, to which writing failed ({reason}); expected "
                "enough free space and permission. Nothing was left behind: free some space, or "
                "choose another directory.",
                getattr(known, "errno", None),
                getattr(known, "strerror", None),
                directory,
            ) from error
        raise


def rename(
    temporary: str,
    directory: str,
    number: int,
    sign: Callable[[str, str], None] | None = None,
) -> str:
    """Rename to the first free version from `number` on, and return the new path.

    Another writer may have taken the number meanwhile.

    Raises:
        OSError: The directory cannot be renamed, or no number is free.
    """
    for candidate in range(number, number + _ATTEMPTS):
        path = os.path.join(directory, str(candidate))
        if sign is not None:
            sign(temporary, path)
        try:
            os.rename(temporary, path)
            return path
        except OSError:
            if not os.path.lexists(path):
                raise
    raise OSError(f"no free version number from {number} on")


def highest(directory: str) -> int:
    """The highest version in a directory, 0 if there is none."""
    return max(existing(directory), default=0)


def existing(directory: str) -> dict[int, str]:
    """{version: path} of a directory, in ascending order; nothing if it does not exist."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return {}
    found = [int(name) for name in names if name.isascii() and name.isdigit()]
    return {number: os.path.join(directory, str(number)) for number in sorted(found)}


def withdraw(path: str) -> None:
    """Remove a version; it disappears at once, before its files are removed.

    Raises:
        OSError: It cannot be removed.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".tmp-{name}-{os.getpid()}-{threading.get_ident()}")
    os.rename(path, temporary)
    shutil.rmtree(temporary)


def absent(directory: str) -> list[str]:
    """The directory and those of its parents that do not exist yet, innermost first."""
    missing = []
    path = os.path.abspath(directory)
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


def remove(directories: list[str]) -> None:
    """Remove directories, innermost first, as far as they are empty."""
    for path in directories:
        with contextlib.suppress(OSError):  # another process has written into it
            os.rmdir(path)
