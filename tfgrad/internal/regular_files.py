"""Reading of regular files only: never a pipe, a socket or a device, and no more than is allowed.

Opening a named pipe waits for its writer, and some devices have no end. A file is therefore looked
at before it is opened, opened once, looked at again through its descriptor and read from that, so
that nobody can exchange it in between.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from typing import Any

# What JSON of lists, numbers and short strings takes in memory is bounded by these two.
MAX_JSON_BYTES = 64 << 20
MAX_JSON_ITEMS = 4_000_000

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# Without waiting for anybody, and never as the terminal of the process; absent on Windows.
_FLAGS = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY")
)


# Files of these systems count as regular, and many have no end or wait for what the kernel does.
_OF_THE_KERNEL = ("/proc/", "/sys/")


class NotRegularError(OSError):
    """A path leads to something else than a regular file, which `strerror` says."""


def kind(path: str, mode: int) -> str | None:
    """What stands at a path, in words; None for a regular file.

    Args:
        path: The path, or that of a symbolic link.
        mode: Its `st_mode`, links followed.
    """
    if not stat.S_ISREG(mode):
        return next((words for test, words in _KINDS if test(mode)), "no regular file")
    return "a file of the kernel" if os.path.realpath(path).startswith(_OF_THE_KERNEL) else None


def opened(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A regular file, opened for reading.

    Args:
        path: Its path, or a symbolic link to it.

    Raises:
        NotRegularError: It is something else, such as a named pipe.
        OSError: It is missing or cannot be read.
        ValueError: The path holds a null character.
    """
    path = os.fsdecode(path)
    _check(os.stat(path), path)  # before opening: opening alone can act on a device
    file = open(path, "rb", opener=lambda name, _: os.open(name, _FLAGS))  # noqa: SIM115
    try:
        _check(os.fstat(file.fileno()), path)
    except OSError:
        file.close()
        raise
    return file


def _check(status: os.stat_result, path: str) -> None:
    if (what := kind(path, status.st_mode)) is not None:
        code = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        raise NotRegularError(code, f"{what}, not a regular file", path)


def size(file: io.BufferedReader) -> int:
    """The size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def read(path: str | os.PathLike[str], limit_bytes: int) -> bytes:
    """The content of a regular file of at most `limit_bytes`.

    Raises:
        OSError: As for `opened`, or the file is larger; EFBIG is the number of that error.
        ValueError: The path holds a null character.
    """
    with opened(path) as file:
        content = b"" if size(file) > limit_bytes else file.read(limit_bytes + 1)
        if size(file) > limit_bytes or len(content) > limit_bytes:  # it may grow meanwhile
            raise OSError(errno.EFBIG, f"more than {limit_bytes} bytes", os.fspath(path))
    return content


def parse_json(content: bytes) -> Any:
    """The value that JSON text holds.

    Raises:
        ValueError: It is no JSON, too large or too deep, or names a key twice.
    """
    items = sum(map(content.count, (b",", b"[", b"{")))
    if len(content) > MAX_JSON_BYTES or items > MAX_JSON_ITEMS:
        raise ValueError(
            f"{len(content)} bytes of {items} items; at most {MAX_JSON_BYTES} and {MAX_JSON_ITEMS}"
        )
    try:
        return json.loads(content, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} twice")
    return found


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: As for `read`.
        ValueError: As for `parse_json`.
    """
    return parse_json(read(path, MAX_JSON_BYTES))
