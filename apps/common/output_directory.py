"""Output directories of commands that appear whole or not at all, and arrays that grow in them."""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from typing import IO, Any, Self

import numpy as np

from tfgrad.errors import ArgumentError, WriteError
from tfgrad.internal import files


class GrowingArrays:
    """Arrays that grow on disk batch by batch and end up in maps.npz, so that memory stays flat.

    Args:
        directory: Directory of maps.npz, and of temporary files until the context is left.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._files: dict[str, IO[bytes]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
            with contextlib.suppress(OSError):
                os.remove(file.name)

    def add(self, arrays: Mapping[str, Any]) -> None:
        """Append a batch to each array."""
        for name, values in arrays.items():
            if name not in self._files:
                path = os.path.join(self.directory, f"{len(self._files)}.raw")
                self._files[name] = open(path, "wb")  # noqa: SIM115  (closed on exit)
                self._shapes[name] = values.shape[1:]
            self._files[name].write(np.ascontiguousarray(values, np.float32).tobytes())
        self._count += len(next(iter(arrays.values())))

    def save(self, **more: np.ndarray) -> None:
        """Write maps.npz, with `more` arrays in it."""
        arrays: dict[str, Any] = dict(more)
        for name, file in self._files.items():
            file.flush()
            shape = (self._count, *self._shapes[name])
            arrays[name] = np.memmap(file.name, np.float32, "r", shape=shape)
        np.savez(os.path.join(self.directory, "maps.npz"), **arrays)


@contextlib.contextmanager
def written_aside(path: str, expected: Collection[str]) -> Iterator[str]:
    """A directory that takes the place of `path` once the block has ended without an error.

    Args:
        path: The directory that --out names.
        expected: Names of the files that an earlier result may hold.

    Raises:
        ArgumentError: `path` holds other files than `expected`.
        WriteError: It cannot be written. Errors of the block about other files pass unchanged.
    """
    path = os.path.normpath(path)
    try:
        if os.path.lexists(path) and (others := sorted(set(os.listdir(path)) - set(expected))):
            raise ArgumentError(
                f"--out: got {path!r}, which holds {others[0]!r}; expected a new directory or an "
                "earlier result of this command; try another directory."
            )
        with files.replaced_directory(path) as directory:
            yield directory
    except OSError as error:
        about = str(error.filename or path)
        if isinstance(error, WriteError) or not about.startswith(path):
            raise
        raise files.cannot_write(error, "--out", path) from error
