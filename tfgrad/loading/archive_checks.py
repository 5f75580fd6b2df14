"""Checks of a `.keras` file's zip archive, before anything in it is unpacked."""

from __future__ import annotations

import os
import struct
import zipfile
from collections import Counter
from typing import BinaryIO

from tfgrad.internal.regular_files import MAX_JSON_BYTES
from tfgrad.loading.rejection import DAMAGED, LEAVE, WHOLE, rejection, shown, too_large

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

MAX_RATIO = 100  # of one member; Keras stores its members uncompressed, but others compress JSON
MAX_UNPACKED = 20  # of all members, times the file's size; real weights hardly compress at all
SMALL = 16 << 20  # bytes that unpack whatever their ratio
MAX_MEMBERS = 10_000
MAX_DIRECTORY = 4 << 20  # bytes of the list of members

_OWN_MEMBERS = "members as Keras stores them"
_END, _END_64 = b"PK\x05\x06", b"PK\x06\x06"


def check_directory(path: str, file: BinaryIO) -> None:
    """Check the size of the list of members, which `zipfile` reads whole.

    Raises:
        ModelError: It is too large.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - (1 << 16) - 256))
    tail = file.read()
    file.seek(0)
    size = 0
    for signature, offset, form in ((_END, 12, "<L"), (_END_64, 40, "<Q")):
        at = tail.rfind(signature)
        if at >= 0 and len(tail) >= at + offset + struct.calcsize(form):
            found = struct.unpack_from(form, tail, at + offset)[0]
            size = max(size, 0 if found == 0xFFFFFFFF else found)
    if size > MAX_DIRECTORY:
        raise rejection(
            path,
            f"a zip archive whose list of members has {size} bytes",
            f"at most {MAX_DIRECTORY} bytes",
            f"{LEAVE}: no model has so many members",
        )


def check_members(path: str, archive: zipfile.ZipFile, size: int, limit_bytes: int) -> None:
    """Check names, number and sizes of the members, all of which the archive only declares.

    Args:
        path: The file, for the error.
        archive: The open archive.
        size: The size of the file in bytes.
        limit_bytes: The most that all members may have, unpacked.

    Raises:
        ModelError: The archive is too large, a decompression bomb, points outside itself, or lacks
            a member.
    """
    members = archive.infolist()
    count = Counter(member.filename for member in members)
    total = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS:
        raise rejection(
            path,
            f"{len(members)} members",
            f"at most {MAX_MEMBERS} members",
            f"{LEAVE}: no model has so many",
        )
    if sum(member.compress_size for member in members) > size:
        # Damaged, or a decompression bomb.
        raise rejection(path, "a zip archive whose members overlap", WHOLE, DAMAGED)
    for member in members:
        _check_member(path, member, count)
    if total > limit_bytes:
        got = f"{len(members)} members of {total / 2**30:.3g} GiB unpacked"
        raise too_large(path, got, limit_bytes)
    if total > max(SMALL, MAX_UNPACKED * size):
        raise _bomb(path, f"members that unpack from {size} to {total} bytes")
    for name in (CONFIG, METADATA, WEIGHTS):
        if name not in count:
            raise rejection(
                path,
                f"an archive without {name}",
                f"one with {CONFIG}, {METADATA} and {WEIGHTS}",
                "save the whole model with model.save",
            )


def _check_member(path: str, member: zipfile.ZipInfo, count: Counter[str]) -> None:
    name = member.filename
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or ":" in name:
        got = f"a member that leaves the archive, {shown(name)}"
        raise rejection(path, got, _OWN_MEMBERS, LEAVE)
    if count[name] > 1:
        got = f"the member {shown(name)} twice"
        raise rejection(path, got, "each member once", "save the model again")
    if member.file_size > max(1 << 20, MAX_RATIO * member.compress_size) or (
        name.endswith(".json") and member.file_size > MAX_JSON_BYTES
    ):
        raise _bomb(
            path,
            f"the member {shown(name)} that unpacks from {member.compress_size} to "
            f"{member.file_size} bytes",
        )


def _bomb(path: str, got: str) -> Exception:
    return rejection(path, got, _OWN_MEMBERS, f"{LEAVE}: this is a decompression bomb")
