"""Checks of the files in a SavedModel's directory, which TensorFlow opens by itself."""

from __future__ import annotations

import os
import stat

import tensorflow as tf

from tfgrad.errors import ModelError
from tfgrad.internal import regular_files
from tfgrad.loading.rejection import (
    DAMAGED,
    DIVERGED,
    FINITE,
    LEAVE,
    WHOLE,
    brief,
    rejection,
    shown,
    too_large,
)

GRAPH, VARIABLES = "saved_model.pb", os.path.join("variables", "variables")
MAX_FILES = 10_000
MAX_DEPTH = 16
# The graph is read whole, and takes several times its size in memory.
GRAPH_SHARE = 16

# A file's name in the directory, and what changes when somebody writes or exchanges it.
Stamp = dict[str, tuple[int, ...]]


def check_files(path: str, limit_bytes: int) -> Stamp:
    """Check that the directory holds regular files of a bounded size, and nothing else.

    Args:
        path: The version's directory.
        limit_bytes: The most bytes of all its files.

    Returns:
        What `unchanged` compares.

    Raises:
        ModelError: A file is a pipe, a socket or a device, or there are too many or too large ones.
    """
    found: Stamp = {}
    stack = [("", 0)]
    while stack:
        folder, depth = stack.pop()
        for name in _names(path, folder):
            inside = os.path.join(folder, name)
            whole = os.path.join(path, inside)
            try:
                status = os.stat(whole)
            except (OSError, ValueError) as error:
                got = f"a file that cannot be read, {shown(inside)} ({brief(error)})"
                raise rejection(path, got, "the files of a SavedModel", DAMAGED) from error
            if stat.S_ISDIR(status.st_mode):
                stack.append((inside, depth + 1))
            elif (what := regular_files.kind(whole, status.st_mode)) is not None:
                got = f"{what} in the place of a file, {shown(inside)}"
                raise rejection(path, got, "regular files", LEAVE)
            size = status.st_size if stat.S_ISREG(status.st_mode) else 0
            found[inside] = (status.st_dev, status.st_ino, size, status.st_mtime_ns)
            if len(found) > MAX_FILES or depth > MAX_DEPTH:
                got = f"more than {MAX_FILES} files, or directories {MAX_DEPTH} deep"
                raise rejection(path, got, "the files of a SavedModel", LEAVE)
    total = sum(stamp[2] for stamp in found.values())
    if total > limit_bytes:
        raise too_large(path, f"files of {total / 2**30:.3g} GiB", limit_bytes)
    return found


def _names(path: str, folder: str) -> list[str]:
    try:
        return sorted(os.listdir(os.path.join(path, folder)))
    except OSError as error:
        got = f"a directory that cannot be read, {shown(folder)} ({brief(error)})"
        raise rejection(path, got, "the files of a SavedModel", DAMAGED) from error


def check_unchanged(path: str, before: Stamp, limit_bytes: int) -> None:
    """Check that the files that TensorFlow read are those that were checked.

    Raises:
        ModelError: One of them was written, added, removed or exchanged meanwhile.
    """
    after = check_files(path, limit_bytes)
    changed = [name for name in {*before, *after} if before.get(name) != after.get(name)]
    if changed:
        got = f"files that changed while they were read, {shown(min(changed))}"
        raise rejection(
            path, got, "files that nobody writes", "wait for its writer, and load again"
        )


def read_graph(path: str, limit_bytes: int) -> bytes:
    """The bytes of the file that holds the graph.

    Raises:
        ModelError: It cannot be read, or is larger than a sixteenth of `limit_bytes`.
    """
    most = limit_bytes // GRAPH_SHARE
    name = os.path.join(path, GRAPH)
    try:
        with regular_files.opened(name) as file:
            if (size := regular_files.size(file)) > most:
                raise too_large(path, f"a {GRAPH} of {size / 2**30:.3g} GiB", most)
            head = file.read(1)
            if head not in (b"", b"\x08", b"\x12"):  # a version or a graph begins each of them
                got = f"a damaged {GRAPH} (it begins with {shown(head)})"
                raise rejection(path, got, WHOLE, DAMAGED)
            return head + file.read(most)
    except (OSError, ValueError) as error:
        if isinstance(error, ModelError):  # a ValueError, too
            raise
        raise rejection(path, f"a damaged {GRAPH} ({brief(error)})", WHOLE, DAMAGED) from error


def check_variables(path: str, files: Stamp) -> None:
    """Check the stored variables: their sizes before they are read, then their values.

    Args:
        path: The version's directory.
        files: Its files, from `check_files`.

    Raises:
        ModelError: They are missing or damaged, declare more than their files hold, or one is NaN
            or infinite.
    """
    prefix = os.path.join(path, VARIABLES)
    if f"{VARIABLES}.index" not in files:
        raise rejection(path, f"no {VARIABLES}.index", "the variables of the model", DAMAGED)
    sizes = [stamp[2] for name, stamp in files.items() if name.startswith(f"{VARIABLES}.data-")]
    try:
        reader = tf.train.load_checkpoint(prefix)
        types, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()
        declared = sum(
            types[name].size * _elements(shape)
            for name, shape in shapes.items()
            if types[name] != tf.string
        )
        if declared > sum(sizes):
            got = f"damaged variables, {declared} bytes in files of {sum(sizes)}"
            raise rejection(path, got, WHOLE, DAMAGED)
        for name in shapes:
            if types[name] == tf.string:  # the object graph, and what assets refer to
                continue
            value = reader.get_tensor(name)  # checks the stored checksum
            if types[name].is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
                got = f"NaN or infinite values in the weight {name}"
                raise rejection(path, got, FINITE, DIVERGED)
    except ModelError:
        raise
    except Exception as error:
        raise rejection(path, f"damaged variables ({brief(error)})", WHOLE, DAMAGED) from error


def _elements(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
