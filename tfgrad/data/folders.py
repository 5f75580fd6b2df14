"""Reads a folder of labelled images, one sub-folder for each class, into arrays."""

from __future__ import annotations

import concurrent.futures
import os
import warnings
from collections.abc import Sequence

import numpy as np

from tfgrad import images as image_files
from tfgrad.data import memory
from tfgrad.data.folder_listing import Listing, listed
from tfgrad.errors import DataError, ImagesLeftOutWarning

Size = tuple[int, int]

_CHANNELS = 3


def read(
    folder: str, split: str, image_size: Size | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Decode one split of a folder into memory.

    Args:
        folder: The folder.
        split: A split, or a slice of one.
        image_size: (height, width) to resize to, or None for the images' own, if they share one.

    Returns:
        Images [n, height, width, 3] uint8, labels [n] int32 and the class names.

    Warns:
        ImagesLeftOutWarning: Images that cannot be read, or that belong to no class.

    Raises:
        DataError: As for `tfgrad.data.load`.
    """
    found = listed(folder, split)
    paths = [found.path(file) for file in found.files]
    resized = None if image_size is None else (image_size[0], image_size[1])
    size = resized or _first_size(found, paths)
    memory.check(folder, split, (len(paths), *size, _CHANNELS))
    pixels = np.empty((len(paths), *size, _CHANNELS), np.uint8)

    def fill(index: int) -> DataError | Size | None:
        """Read one image; the error of a broken one, the size of one that does not fit."""
        try:
            image = image_files.read(paths[index], resized).numpy()
        except DataError as error:
            return error
        if image.shape[:2] != size:
            return image.shape[:2]
        # 8 bits again: exact where nothing was resized.
        pixels[index] = np.rint(255 * image)
        return None

    # TensorFlow decodes outside of Python's lock.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(fill, range(len(paths))))
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, tuple):
            raise DataError(
                f"image_size: got None for {folder!r}, whose images vary in size ({size[0]}×"
                f"{size[1]} and, of {path!r}, {result[0]}×{result[1]}); expected (height, width) "
                "to resize them to; try image_size=(64, 64)."
            )
    broken = {i: result for i, result in enumerate(results) if isinstance(result, DataError)}
    _check_left_out(found, broken)
    kept = [i for i in range(len(paths)) if i not in broken]
    for position, index in enumerate(kept):
        if position != index:
            pixels[position] = pixels[index]
    return pixels[: len(kept)], np.array(found.labels, np.int32)[kept], found.classes


def _first_size(found: Listing, paths: Sequence[str]) -> Size:
    """(height, width) of the first image that can be read."""
    first: DataError | None = None
    for path in paths:
        try:
            height, width, _ = image_files.read(path).shape
        except DataError as error:
            first = first or error
        else:
            return height, width
    raise _none_readable(found.folder, found.split, len(paths), first)


def _check_left_out(found: Listing, broken: dict[int, DataError]) -> None:
    """Say which images were left out, and raise where a class, or all, has none left."""
    folder, split, count = found.folder, found.split, len(found.files)
    if len(broken) == count:
        raise _none_readable(folder, split, count, broken[0])
    lost = {*found.labels} - {y for i, y in enumerate(found.labels) if i not in broken}
    if lost and found.is_whole:  # a slice may have few images of a class
        label = min(lost)
        of_class = f"{split}, class {found.classes[label]}"
        first = next(error for i, error in broken.items() if found.labels[i] == label)
        raise _none_readable(folder, of_class, found.labels.count(label), first)
    if broken:
        warnings.warn(
            f"name: got {folder!r}, in which {len(broken)} of the {count} images of {split!r} "
            f"cannot be read, and are left out; the first: {next(iter(broken.values()))}",
            ImagesLeftOutWarning,
            stacklevel=4,
        )
    if found.loose:
        warnings.warn(
            f"name: got {folder!r}, in which {len(found.loose)} images lie in no folder of a "
            f"class, and are left out; the first: {found.loose[0]!r}",
            ImagesLeftOutWarning,
            stacklevel=4,
        )


def _none_readable(folder: str, split: str, count: int, first: DataError | None) -> DataError:
    return DataError(
        f"name: got {folder!r}, in which none of the {count} images of {split!r} can be read; "
        f"expected JPEG and PNG files; the first: {first}"
    )
