"""Checks of the groups and arrays of an HDF5 file: in an archive, or a model file of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import h5py

from tfgrad.errors import ModelError
from tfgrad.internal.regular_files import MAX_JSON_BYTES
from tfgrad.loading.archive_checks import MAX_UNPACKED, SMALL, WEIGHTS
from tfgrad.loading.h5_heaps import check_heaps
from tfgrad.loading.rejection import DAMAGED, LEAVE, WHOLE, brief, rejection, shown

MAX_ITEMS = 100_000  # groups and arrays of one file

# Filters that HDF5 and h5py bring along; for any other the library looks for a plugin to run.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_SZIP,
    h5py.h5z.FILTER_NBIT,
    h5py.h5z.FILTER_SCALEOFFSET,
    h5py.h5z.FILTER_LZF,
}
_OWN = "arrays in the file itself"


class Held(NamedTuple):
    """What the arrays of a file hold."""

    bytes: int  # of all arrays, each counted once
    optimizer: bool  # whether there is any state of one
    complex: tuple[str, ...]  # names of the complex ones, without those of an optimizer


def check_weights(path: str, content: BinaryIO, size: int) -> Held:
    """Check the HDF5 weights of an archive without reading their arrays.

    Args:
        path: The model file, for the error.
        content: The unpacked weights.
        size: The size of the archive on disk.

    Returns:
        What the arrays hold.

    Raises:
        ModelError: They are damaged, point outside the file or declare more than it can hold.
    """
    try:
        check_heaps(path, content, WEIGHTS)
        with h5py.File(content, "r") as file:
            return check_groups(path, file, WEIGHTS, size)
    except ModelError:
        raise
    except Exception as error:
        raise rejection(path, f"a damaged {WEIGHTS} ({brief(error)})", WHOLE, DAMAGED) from error


def check_groups(path: str, file: h5py.File, name: str, size: int) -> Held:
    """Check the groups, arrays and attributes of an HDF5 file without reading them.

    Args:
        path: The model file, for the error.
        file: The open HDF5 file.
        name: Its name in messages.
        size: The size in bytes of the model file.

    Returns:
        What the arrays hold.

    Raises:
        ModelError: They point outside the file, declare more than it can hold, were declared
            but never written, or need a filter that is not part of HDF5.
    """
    total, unwritten, complex_ = 0, [], []
    _check_attributes(path, file, name)
    for key, item in _items(path, file, name):
        _check_attributes(path, item, name)
        if isinstance(item, h5py.Dataset):
            _check_array(path, key, item, name)
            total += item.nbytes
            if not _is_stored(item):
                unwritten.append(item.name)
            if item.dtype.kind == "c" and not item.name.startswith("/optimizer"):
                complex_.append(item.name)
    if total > max(SMALL, MAX_UNPACKED * size):
        raise rejection(
            path,
            f"{name} in a file of {size} bytes declaring {total} bytes",
            f"at most {MAX_UNPACKED} times its size",
            LEAVE,
        )
    if unwritten:  # the library would read zeros
        raise rejection(
            path,
            f"an array in {name} that was declared but never written whole, {shown(unwritten[0])}",
            "the values of every weight",
            "its writing was interrupted: save the model again, or load an earlier checkpoint",
        )
    return Held(total, "optimizer" in file, tuple(complex_))


def _items(path: str, file: h5py.File, name: str) -> Iterator[tuple[str, h5py.HLObject]]:
    """Every group and array, each once: hard links can form a ring."""
    seen: set[int] = set()
    count, stack = 0, [file]
    while stack:
        group = stack.pop()
        for key in group:
            count += 1
            if count > MAX_ITEMS:
                got = f"more than {MAX_ITEMS} groups and arrays in {name}"
                raise rejection(path, got, "those of a model", LEAVE)
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                got = f"a link to elsewhere in {name}, {shown(key)}"
                raise rejection(path, got, _OWN, LEAVE)
            item = group[key]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            yield key, item
            if isinstance(item, h5py.Group):
                stack.append(item)


def _check_array(path: str, key: str, item: h5py.Dataset, name: str) -> None:
    if item.external or item.is_virtual:
        raise rejection(path, f"data outside {name}, {shown(key)}", _OWN, LEAVE)
    if item.dtype.kind not in "biufcSV" or item.dtype.hasobject:
        got = f"an array of {item.dtype} in {name}, {shown(key)}"
        raise rejection(path, got, "arrays of numbers", DAMAGED)
    plan = item.id.get_create_plist()
    for index in range(plan.get_nfilters()):
        if (number := plan.get_filter(index)[0]) not in _FILTERS:
            raise rejection(
                path,
                f"an array in {name} that the filter {number} packed, {shown(key)}",
                "arrays without filters, or with those of HDF5",
                "save the model again with Keras",
            )


def _is_stored(item: h5py.Dataset) -> bool:
    """Whether the file holds the bytes of every value: what it lacks reads as zeros."""
    if not item.size:
        return True
    if item.chunks is None:
        return bool(item.id.get_storage_size() >= item.nbytes)
    pieces = (-(-size // chunk) for size, chunk in zip(item.shape, item.chunks, strict=True))
    return bool(item.id.get_num_chunks() >= math.prod(pieces))


def _check_attributes(path: str, item: h5py.HLObject, name: str) -> None:
    for index in range(h5py.h5a.get_num_attrs(item.id)):
        attribute = h5py.h5a.open(item.id, index=index)
        points = attribute.get_space().get_simple_extent_npoints()
        if points * attribute.get_type().get_size() > MAX_JSON_BYTES:
            raise rejection(
                path,
                f"an attribute of more than {MAX_JSON_BYTES} bytes in {name}",
                "those of a model",
                LEAVE,
            )
