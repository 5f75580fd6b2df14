"""What a long command puts out: its progress, arrays that grow on disk, a directory made whole."""

import contextlib
import datetime
import os
import shutil
import time

import numpy as np

from tfgrad.errors import ArgumentError

SECONDS_BETWEEN_LINES = 5


class Progress:
    """A line every few seconds: how many are done, and the time left.

    Args:
        count: how many there are.
        start: how many were done before this process began.
        what: they are.
    """

    def __init__(self, count, start=0, what="images"):
        self.count, self.start, self.what = count, start, what
        self.began = self.said = time.monotonic()

    def done(self, finished):
        """Say so, if it is time."""
        now = time.monotonic()
        if now - self.said >= SECONDS_BETWEEN_LINES and self.start < finished < self.count:
            each = (now - self.began) / (finished - self.start)
            left = datetime.timedelta(seconds=round(each * (self.count - finished)))
            done = f"{finished} of {self.count} {self.what}"
            print(f"{done}  {each:.2f} s each, {left} left", flush=True)
            self.said = now


class Store:
    """Arrays that grow by batches on disk, and end up in maps.npz: memory stays flat."""

    def __init__(self, directory):
        self.directory, self._files, self._shapes = directory, {}, {}
        self._count = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for file in self._files.values():
            file.close()
            with contextlib.suppress(OSError):
                os.remove(file.name)

    def add(self, arrays):
        """A batch of each array."""
        for name, values in arrays.items():
            if name not in self._files:
                path = os.path.join(self.directory, f"{len(self._files)}.raw")
                self._files[name] = open(path, "wb")  # noqa: SIM115  (closed on exit)
                self._shapes[name] = values.shape[1:]
            self._files[name].write(np.ascontiguousarray(values, np.float32).tobytes())
        self._count += len(next(iter(arrays.values())))

    def save(self, **more):
        """Write maps.npz."""
        arrays = dict(more)
        for name, file in self._files.items():
            file.flush()
            shape = (self._count, *self._shapes[name])
            arrays[name] = np.memmap(file.name, np.float32, "r", shape=shape)
        np.savez(os.path.join(self.directory, "maps.npz"), **arrays)


@contextlib.contextmanager
def written_aside(path, files):
    """A directory that takes the place of `path` once the block has ended without an error.

    Raises:
        ArgumentError: `path` holds something else than `files`, or cannot be written.
    """
    path = os.path.normpath(path)
    aside = f"{path}.tmp-{os.getpid()}"
    try:
        if os.path.lexists(path) and (others := sorted(set(os.listdir(path)) - files)):
            raise ArgumentError(
                f"--out: {path!r} holds {others[0]!r}, which is no result of this command; choose "
                "another directory."
            )
        os.makedirs(aside)
        yield aside
        _rename_over(aside, path)
    except OSError as error:
        raise ArgumentError(
            f"--out: {path!r} cannot be written ({error.strerror or error}); choose another "
            "directory."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _rename_over(directory, path):
    """Rename a directory to one that may exist already, which is removed once all went well."""
    if not os.path.isdir(path):
        return os.rename(directory, path)
    old = f"{path}.old-{os.getpid()}"
    os.rename(path, old)
    try:
        os.rename(directory, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old)
