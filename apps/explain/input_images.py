"""The images to explain: files and folders of them, or a slice of a data set."""

import collections
import dataclasses
import importlib.resources
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfgrad import data, images
from tfgrad.data import folder_listing
from tfgrad.errors import ArgumentError, DataError, ModelError

SUFFIXES = (".jpg", ".jpeg", ".png")
LUMA = np.array([[0.299], [0.587], [0.114]], "float32")

Known = dict[str, Any]
Size = tuple[int, int]
Stream = Iterator[tuple[Known, np.ndarray | None]]


@dataclasses.dataclass(frozen=True)
class Images:
    """A stream of images; files are read when the stream reaches them.

    Attributes:
        stream: Pairs of what is known of an image and its pixels [H, W, C] from 0 to 1; for a file
            that cannot be read, "file" and "reason", and None.
        count: Number of images, readable or not.
        size: (height, width) of all images.
        classes: Names of their labels; empty for files.
    """

    stream: Stream
    count: int
    size: Size
    classes: Sequence[str] = ()

    def batches(self, size: int, skipped: list[Known]) -> Iterator[tuple[list[Known], np.ndarray]]:
        """Batches of what is known of readable images, and their pixels [B, H, W, C].

        Args:
            size: Size of a batch; the last may be smaller.
            skipped: List to which what is known of the others is appended; it is also printed.
        """
        batch: list[tuple[Known, np.ndarray]] = []
        for known, pixels in self.stream:
            if pixels is None:
                skipped.append(known)
                print(f"left out: {known['reason']}", file=sys.stderr, flush=True)
                continue
            batch.append((known, pixels))
            if len(batch) == size:
                yield _columns(batch)
                batch = []
        if batch:
            yield _columns(batch)


def image_size(name: str, shape: Sequence[int | None], asked: Size | None) -> Size | None:
    """(height, width) of the images for a model; None if neither it nor --image_size tells.

    Args:
        name: Name of the model.
        shape: Shape of its images, (height, width, channels), None where a size is free.
        asked: (height, width) of --image_size.

    Raises:
        ArgumentError: The model takes another size than `asked`.
        ModelError: The model takes neither grey nor colour images.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise ModelError(
            f"{name}: got a model of images with {channels} channels; expected 1 or 3."
        )
    if asked is not None and min(asked) < 1:
        raise ArgumentError(f"--image_size: got {asked}; expected integers ≥ 1.")
    if height is None or width is None:
        return asked
    if asked not in (None, (height, width)):
        raise ArgumentError(
            f"--image_size: got {asked}; expected {(height, width)}, which the model takes; try "
            "without the flag."
        )
    return height, width


def from_files(paths: Sequence[str], size: Size | None, channels: int) -> Images:
    """JPEG and PNG files, and those in folders by their names.

    Args:
        paths: Paths of files and folders.
        size: (height, width) that they are resized to.
        channels: Number of channels, 1 or 3.

    Raises:
        ArgumentError: There is no size.
        DataError: A path does not exist, or a folder cannot be read or holds no images.
    """
    if size is None:
        raise ArgumentError(
            "--image_size: got none for a model of any size; expected HEIGHT,WIDTH."
        )
    files = [file for path in paths for file in _files_at(path)]

    def stream() -> Stream:
        for path in files:
            try:
                pixels = images.read(path, size, channels).numpy()
            except DataError as error:
                yield {"file": path, "reason": str(error)}, None
            else:
                yield {"file": path}, pixels

    return Images(stream(), len(files), size)


def photographs() -> list[str]:
    """The photographs that scikit-learn brings: a temple in China, and a flower."""
    folder = importlib.resources.files("sklearn.datasets.images")
    return [str(folder / name) for name in ("china.jpg", "flower.jpg")]


def _files_at(path: str) -> list[str]:
    """A file, or the files in a folder and those below it that have the suffix of an image."""
    if not os.path.isdir(path):
        if not os.path.lexists(path):
            raise DataError(
                f"--images: got {path!r}, which does not exist; expected a file or a folder; check "
                "the working directory."
            )
        return [path]
    try:
        inside = sorted(name for name in _below(path) if name.lower().endswith(SUFFIXES))
    except OSError as error:
        raise DataError(f"--images: {path!r} cannot be read ({error.strerror}).") from error
    if not inside:
        raise DataError(
            f"--images: got {path!r}, a folder without images; expected files that end in "
            f"{', '.join(SUFFIXES)}."
        )
    return [os.path.join(path, name) for name in inside]


def _below(path: str) -> Iterator[str]:
    """The files in a folder and in those below it, as paths from there.

    Raises:
        OSError: A folder cannot be read.
    """

    def unreadable(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(path, onerror=unreadable):
        yield from (os.path.relpath(os.path.join(folder, name), path) for name in names)


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """{path: its last part, or with the folder where two files have the same name}."""
    counts = collections.Counter(os.path.basename(path) for path in {*paths})
    return {
        path: os.path.basename(path)
        if counts[os.path.basename(path)] == 1
        else os.path.join(*path.split(os.sep)[-2:])
        for path in paths
    }


def from_dataset(
    name: str, split: str, first: int, count: int, channels: int, **options: Any
) -> Images:
    """Examples of a data set, with their labels.

    Args:
        name: Name of the data set.
        split: Split, or a slice of a split.
        first: Index of the first example of `split`.
        count: Largest number of examples.
        channels: Number of channels, 1 or 3; other images become grey or colour.
        options: Options of `tfgrad.data.load`.

    Raises:
        DataError: There are no such examples.
    """
    sliced = "[" in split
    if not sliced:
        split = f"{split}[{first}:{first + count}]"
    loaded = data.load(name, split, **options)
    chosen = slice(first, first + count) if sliced else slice(None)
    pixels, labels = loaded.images[chosen], loaded.labels[chosen]
    if not len(pixels):
        raise _none_behind(first, len(loaded), split)

    def stream() -> Stream:
        for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            known = {"index": first + i, "label": int(label), "label_name": loaded.classes[label]}
            image = image.astype("float32") / (255 if image.dtype == np.uint8 else 1)
            yield known, _in_channels(image, channels)

    return Images(stream(), len(pixels), loaded.image_shape[:2], loaded.classes)


def from_folder(
    folder: str, split: str, first: int, count: int, size: Size | None, channels: int
) -> Images:
    """Labelled images of a folder with a sub-folder for each class.

    Args:
        folder: The folder.
        split: Split, or a slice of a split.
        first: Index of the first image of `split`.
        count: Largest number of images.
        size: (height, width) that they are resized to.
        channels: Number of channels, 1 or 3.

    Raises:
        ArgumentError: There is no size.
        DataError: The folder has another layout, or there are no such images.
    """
    found = folder_listing.listed(folder, split)
    chosen = range(len(found.files))[first : first + count]
    if not chosen:
        raise _none_behind(first, len(found.files), split)
    files = from_files([found.path(found.files[i]) for i in chosen], size, channels)

    def stream() -> Stream:
        for i, (known, pixels) in zip(chosen, files.stream, strict=True):
            label = found.labels[i]
            yield {**known, "label": label, "label_name": found.classes[label]}, pixels

    return dataclasses.replace(files, stream=stream(), classes=found.classes)


def _none_behind(first: int, count: int, split: str) -> DataError:
    return DataError(
        f"--first: got {first}; expected less than {count}, the number of examples in {split!r}."
    )


def _in_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Grey to colour by repetition, colour to grey by luma."""
    if image.shape[-1] == channels:
        return image
    return np.repeat(image[..., :1], 3, -1) if channels == 3 else image @ LUMA


def _columns(batch: Sequence[tuple[Known, np.ndarray]]) -> tuple[list[Known], np.ndarray]:
    return [known for known, _ in batch], np.stack([pixels for _, pixels in batch])
