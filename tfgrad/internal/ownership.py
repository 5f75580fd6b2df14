"""One writer at a time: a directory or file that a process owns until it ends or lets go.

The kernel releases the lock of a process that dies, however it dies, so that no leftover blocks a
restart. On file systems without locks, and on Windows, nothing is checked. NFS has them if it is
mounted with its lock service (`nolock` turns that off).
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import socket
import time
from typing import IO, Any

from tfgrad.errors import InUseError
from tfgrad.internal.files import naming

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Inside of a directory that is owned.
LOCK = ".lock"

_READING_SECONDS = 2.0
_UNAVAILABLE = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)

_owned: dict[str, IO[str]] = {}


def own(lock: str | os.PathLike[str], argument: str, path: str) -> bool:
    """Own what a lock file stands for, until `release` or the end of the process.

    The same process may own it any number of times; one `release` is enough. What lies inside of a
    directory that it owns needs no lock file. The other workers of one distributed run share it:
    the first of them owns it.

    Args:
        lock: Path of the lock file, whose directory is made if it does not exist.
        argument: The argument that names what is owned, for the message.
        path: What is owned, for the message.

    Returns:
        Whether this process owns it; False if another worker of its run does.

    Raises:
        InUseError: Another process owns it; the message tells which, and since when.
        OSError: The lock file cannot be written.
    """
    lock = os.path.realpath(lock)
    if fcntl is None or _is_owned(lock) or _is_inside(lock):
        return True
    if stale := _owned.pop(lock, None):  # of a directory that was renamed
        stale.close()
    while True:
        with naming(lock):
            os.makedirs(os.path.dirname(lock), exist_ok=True)
            # Not truncated: the file may be of the process that owns it.
            file = open(os.open(lock, os.O_RDWR | os.O_CREAT, 0o666), "r+")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno not in _UNAVAILABLE:  # a file system without locks
                return True
            owner = _owner(lock)
            if owner is not None and _is_another_worker(owner):
                return False
            if owner is None and not os.path.exists(lock):  # released meanwhile
                continue
            raise InUseError(
                f"{argument}: got {path!r}, to which {_described(owner)} is writing; expected one "
                "writer at a time. Wait until it ends, stop it, or choose another path."
            ) from error
        if _is_current(file, lock):
            break
        file.close()  # of a lock that its owner removed, or of a directory that was renamed
    _owned[lock] = file
    file.truncate()
    json.dump(_self(), file)
    file.flush()
    return True


def release(lock: str | os.PathLike[str]) -> None:
    """Let go of what a lock file stands for, and remove it; nothing if it is not owned."""
    lock = os.path.realpath(lock)
    file = _owned.pop(lock, None)
    if file is not None:
        if _is_current(file, lock):
            with contextlib.suppress(OSError):
                os.remove(lock)
        file.close()


def release_all() -> None:
    """Let go of everything that this process owns."""
    for lock in list(_owned):
        release(lock)


def _is_current(file: IO[str], lock: str) -> bool:
    """Whether an open lock file is the one that has its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(lock))
    except OSError:
        return False


def _is_owned(lock: str) -> bool:
    return lock in _owned and _is_current(_owned[lock], lock)


def _is_inside(lock: str) -> bool:
    """Whether what a lock file stands for lies in a directory that this process owns."""
    directory, name = os.path.split(lock)
    if name == LOCK:
        directory = os.path.dirname(directory)
    while not _is_owned(os.path.join(directory, LOCK)):
        directory, inside = os.path.dirname(directory), directory
        if directory == inside:
            return False
    return True


def _self() -> dict[str, Any]:
    """What is told about this process."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "run": os.environ.get("TF_CONFIG"),
    }


def _owner(lock: str) -> dict[str, Any] | None:
    """What the owner of a lock file says of itself; None if it cannot be read."""
    until = time.monotonic() + _READING_SECONDS
    while time.monotonic() < until:
        try:
            with open(lock, encoding="utf-8") as file:
                content = json.load(file)
            return content if isinstance(content, dict) else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError):  # it has just been created
            time.sleep(0.02)
    return None


def _described(owner: dict[str, Any] | None) -> str:
    if owner is None:
        return "another process"
    where = "" if owner.get("host") == socket.gethostname() else f" on {owner.get('host')}"
    return f"process {owner.get('pid')}{where}, since {owner.get('since')},"


def _is_another_worker(owner: dict[str, Any]) -> bool:
    """Whether the owner is another worker of the distributed run of this process."""
    try:
        mine, other = (json.loads(text) for text in (os.environ["TF_CONFIG"], owner["run"]))
        return mine["cluster"] == other["cluster"] and mine["task"] != other["task"]
    except (KeyError, TypeError, ValueError):
        return False


def _let_go_in_child() -> None:
    """Close the files that a forked child inherits, which would keep the locks alive."""
    for file in _owned.values():
        file.close()
    _owned.clear()


atexit.register(release_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
