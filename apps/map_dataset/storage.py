"""Files on this machine, or behind a URL (gs://, s3://, hdfs://), which Beam's file systems reach.

Local files are written aside and renamed. An object store shows an object once all of it is there.
"""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

from tfgrad.errors import ArgumentError
from tfgrad.internal import files, regular_files

MARK = "://"


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    return MARK in path


def join(directory: str, *names: str) -> str:
    """A path inside a directory."""
    return os.path.join(directory, *names)


def file_systems() -> Any:
    """Beam's `FileSystems`.

    Raises:
        ArgumentError: Beam is not installed.
    """
    try:
        from apache_beam.io.filesystems import FileSystems
    except ImportError as error:
        raise ArgumentError(
            f"path: got a URL, which is read through Apache Beam, but that cannot be imported "
            f"({error}); expected a local path. Run `pip install 'tfgrad[beam]'`."
        ) from error
    return FileSystems


def exists(path: str) -> bool:
    """Whether there is such a file or directory."""
    if not is_remote(path):
        return os.path.lexists(path)
    return bool(_found(path) or _found(join(path, "*")))


def names(directory: str) -> list[str]:
    """The names of the files in a directory, sorted; none if it does not exist."""
    if is_remote(directory):
        return sorted(found.path.rpartition("/")[2] for found in _found(join(directory, "*")))
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def walk(directory: str) -> list[str]:
    """The paths of all files below a directory, relative to it, sorted; links are not followed."""
    if is_remote(directory):
        root = directory.rstrip("/") + "/"
        return sorted(found.path[len(root) :] for found in _found(root + "**"))

    def failed(error: OSError) -> None:
        raise error

    found = []
    for folder, _, inside in os.walk(directory, onerror=failed):
        relative = os.path.relpath(folder, directory)
        found += [os.path.normpath(os.path.join(relative, name)) for name in inside]
    return sorted(found)


def size(path: str) -> int:
    """The size of a file in bytes."""
    return _found(path)[0].size_in_bytes if is_remote(path) else os.path.getsize(path)


def opened(path: str) -> Any:
    """A file, opened for reading; only a regular one."""
    if is_remote(path):
        return file_systems().open(path, "application/octet-stream", "uncompressed")
    return regular_files.opened(path)


def read(path: str, limit_bytes: int) -> bytes:
    """The content of a file, one byte more than the limit at most."""
    with opened(path) as file:
        return file.read(limit_bytes + 1)


def make_directory(path: str) -> None:
    """Make a directory and those above it."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


@contextlib.contextmanager
def replaced(path: str, suffix: str = "") -> Iterator[str]:
    """A temporary local file to write to, which becomes `path` if the block ends without error.

    Workers of several machines may write to one directory, so the name is unique among them.
    """
    ending = f"-{uuid.uuid4().hex}{suffix}"
    if not is_remote(path):
        with files.replaced(path, ending) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory() as directory:
        temporary = os.path.join(directory, f"part{suffix}")
        yield temporary
        with open(temporary, "rb") as source, _created(path) as target:
            shutil.copyfileobj(source, target, 1 << 20)


def write_text(path: str, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replaced(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def remove(path: str) -> None:
    """Remove a file or a whole directory, if it exists."""
    if is_remote(path):
        if found := [one.path for one in (*_found(path), *_found(join(path, "**")))]:
            file_systems().delete(found)
    elif os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)


@contextlib.contextmanager
def local_copy(directory: str) -> Iterator[str]:
    """A directory on this machine with the files of another one."""
    if not is_remote(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory() as copy:
        for name in walk(directory):
            target = os.path.normpath(os.path.join(copy, name))
            if not target.startswith(copy + os.sep):
                raise ArgumentError(
                    f"path: got {directory!r} with a file {name!r}; expected files inside of it."
                )
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with opened(join(directory, name)) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
        yield copy


def _created(path: str) -> Any:
    return file_systems().create(path, "application/octet-stream", "uncompressed")


def _found(pattern: str) -> list[Any]:
    return file_systems().match([pattern])[0].metadata_list
