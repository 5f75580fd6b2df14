"""Checks of the heaps of an HDF5 file, which hold its texts of any length.

The HDF5 library follows the sizes in a heap without comparing all of them with the heap's own size,
and does not return from some that are damaged. They are therefore read as bytes first.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from tfgrad.internal.regular_files import MAX_JSON_BYTES
from tfgrad.loading.rejection import DAMAGED, WHOLE, rejection

_SIGNATURE = b"GCOL\x01\0\0\0"  # with the only version, and three bytes that are 0
_HEADER = 16  # of a heap and of each object in it
_CHUNK = 16 << 20


def check_heaps(path: str, file: BinaryIO, name: str) -> None:
    """Check the sizes in every heap of a file; the position in it is 0 afterwards.

    Args:
        path: The model file, for the error.
        file: The HDF5 file.
        name: Its name in messages.

    Raises:
        ModelError: A heap is damaged.
    """
    file.seek(0)
    head = file.read(16)
    # The widths of addresses and lengths follow the version of the first block.
    widths = head[13:15] if head[8:9] in (b"\0", b"\1") else head[9:11]
    if widths != b"\x08\x08":
        got = f"a damaged {name} (its addresses or lengths have no 8 bytes)"
        raise rejection(path, got, "a file as Keras writes it", DAMAGED)
    offset, kept = 0, b""
    file.seek(0)
    while chunk := file.read(_CHUNK):
        data = kept + chunk
        start = offset - len(kept)
        at = data.find(_SIGNATURE)
        while at >= 0:
            if not _is_sound(file, start + at):
                raise rejection(
                    path,
                    f"a damaged {name} (a heap leaves its bounds)",
                    WHOLE,
                    DAMAGED,
                )
            at = data.find(_SIGNATURE, at + 1)
        offset += len(chunk)
        kept = data[-len(_SIGNATURE) + 1 :]
        file.seek(offset)
    file.seek(0)


def _is_sound(file: BinaryIO, position: int) -> bool:
    """Whether the objects of the heap at a position fill it without leaving it."""
    file.seek(position)
    header = file.read(_HEADER)
    if len(header) < _HEADER:
        return False
    size = struct.unpack_from("<Q", header, 8)[0]
    if not _HEADER <= size <= MAX_JSON_BYTES:
        return False
    objects = file.read(size - _HEADER)
    if len(objects) < size - _HEADER:
        return False
    at = 0
    while len(objects) - at >= _HEADER:
        index, length = struct.unpack_from("<H6xQ", objects, at)
        # Object 0 is what is free, its header included; the others are rounded up to 8 bytes.
        need = length if index == 0 else _HEADER + (length + 7) // 8 * 8
        if not _HEADER <= need <= len(objects) - at:
            return False
        at += need
    return True
