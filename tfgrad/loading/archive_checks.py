"""Checks of a `.keras` file's zip archive and of the HDF5 weights in it, before Keras opens it."""

from __future__ import annotations

import io
import os
import zipfile
from collections import Counter

import h5py

from tfgrad.errors import ModelError
from tfgrad.loading.rejection import DAMAGED, MAX_JSON_BYTES, WHOLE, brief, rejection

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

MAX_BYTES = 8 << 30  # all members of one file, unpacked
MAX_RATIO = 100  # Keras stores its members uncompressed; real weights hardly compress at all
MAX_MEMBERS = 10_000

_LEAVE = "do not open it"
_OWN_MEMBERS = "members as Keras stores them"


def check_members(path: str, archive: zipfile.ZipFile) -> None:
    """Check names, number and sizes of the members, all of which the archive only declares.

    Raises:
        ModelError: The archive is too large, a decompression bomb, points outside itself, or lacks
            a member.
    """
    members = archive.infolist()
    count = Counter(member.filename for member in members)
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES or len(members) > MAX_MEMBERS:
        raise rejection(
            path,
            f"{len(members)} members of {total / 2**30:.1f} GiB unpacked",
            f"at most {MAX_MEMBERS} members and {MAX_BYTES >> 30} GiB",
            f"{_LEAVE}: no model of this size is stored in one file",
        )
    if sum(member.compress_size for member in members) > os.path.getsize(path):
        # Damaged, or a decompression bomb.
        raise rejection(path, "a zip archive whose members overlap", WHOLE, DAMAGED)
    for member in members:
        name = member.filename
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or ":" in name:
            raise rejection(
                path, f"a member that leaves the archive, {name!r}", _OWN_MEMBERS, _LEAVE
            )
        if count[name] > 1:
            raise rejection(
                path, f"the member {name!r} twice", "each member once", "save the model again"
            )
        if member.file_size > max(1 << 20, MAX_RATIO * member.compress_size) or (
            name.endswith(".json") and member.file_size > MAX_JSON_BYTES
        ):
            raise rejection(
                path,
                f"the member {name!r} that unpacks from {member.compress_size} to "
                f"{member.file_size} bytes",
                _OWN_MEMBERS,
                f"{_LEAVE}: this is a decompression bomb",
            )
    for name in (CONFIG, METADATA, WEIGHTS):
        if name not in count:
            raise rejection(
                path,
                f"an archive without {name}",
                f"one with {CONFIG}, {METADATA} and {WEIGHTS}",
                "save the whole model with model.save",
            )


def check_weights(path: str, data: bytes) -> None:
    """Check the HDF5 weights without reading them.

    Raises:
        ModelError: They are damaged, point outside the file or declare more than it can hold.
    """
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            check_groups(path, file, WEIGHTS, len(data))
    except ModelError:
        raise
    except Exception as error:
        raise rejection(path, f"a damaged {WEIGHTS} ({brief(error)})", WHOLE, DAMAGED) from error


def check_groups(path: str, file: h5py.File, name: str, size: int) -> None:
    """Check the groups and arrays of an HDF5 file without reading them.

    Args:
        path: The model file, for the error.
        file: The open HDF5 file.
        name: Its name in messages.
        size: Its size in bytes.

    Raises:
        ModelError: They point outside the file or declare more than it can hold.
    """
    total = 0
    seen: set[int] = set()

    def walk(group: h5py.Group) -> None:
        nonlocal total
        for key in group:
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise rejection(
                    path,
                    f"a link to elsewhere in {name}, {key!r}",
                    "arrays in the file itself",
                    _LEAVE,
                )
            item = group[key]
            if isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise rejection(
                        path,
                        f"data outside {name}, {key!r}",
                        "arrays in the file itself",
                        _LEAVE,
                    )
                total += item.nbytes
            elif (address := h5py.h5o.get_info(item.id).addr) not in seen:
                seen.add(address)  # hard links can form a ring
                walk(item)

    walk(file)
    if total > max(1 << 20, MAX_RATIO * size):
        raise rejection(
            path,
            f"{name} of {size} bytes declaring {total} bytes",
            f"at most {MAX_RATIO} times its size",
            _LEAVE,
        )
