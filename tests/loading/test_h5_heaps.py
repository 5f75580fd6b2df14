"""The texts of an HDF5 file lie in heaps whose sizes are compared before HDF5 follows them."""

import io
import struct

import h5py
import pytest

from tfgrad.errors import ModelError
from tfgrad.loading.h5_heaps import check_heaps


def file_with(texts):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for index, text in enumerate(texts):
            file.attrs[f"a{index}"] = text
    return content


def test_sound_heaps():
    for texts in ([], ["a"], ["x" * n for n in range(200)], ["y" * 50_000] * 5):
        check_heaps("model.h5", file_with(texts), "model.h5")


# Sizes that the library itself refuses: larger than the file, or than the heap.
@pytest.mark.parametrize("offset, value", [(8, 1 << 40), (24, 1 << 20)])
def test_sizes_that_are_too_large(offset, value):
    data = bytearray(file_with(["a text"]).getvalue())
    struct.pack_into("<Q", data, data.index(b"GCOL") + offset, value)
    with pytest.raises(ModelError, match=r"a damaged model.h5 .a heap leaves its bounds"):
        check_heaps("model.h5", io.BytesIO(data), "model.h5")


def test_lengths_of_other_widths():
    data = bytearray(file_with([]).getvalue())
    data[14 if data[8] < 2 else 10] = 4
    with pytest.raises(ModelError, match="have no 8 bytes"):
        check_heaps("model.h5", io.BytesIO(data), "model.h5")
