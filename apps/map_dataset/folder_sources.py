"""The image files of folders, without labels or with those that their sub-folders give."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

from tfgrad import images
from tfgrad.data import folder_listing
from tfgrad.data.folder_listing import SUFFIXES
from tfgrad.errors import DataError

from . import storage, tfrecord_files
from .image_sources import Item, Part, Source, first_line


@dataclasses.dataclass(frozen=True)
class Folder(Source):
    """The JPEG and PNG files in a folder and the folders below it, in the order of their paths."""

    path: str

    def describe(self) -> dict[str, Any]:
        """Names, sizes and numbers."""
        names = self._names
        return {"images": len(names), "names": tfrecord_files.digest(names)}

    def count(self) -> int:
        """The number of images."""
        return len(self._names)

    def parts(self, size: int) -> list[Part]:
        """All images, in parts of `size`."""
        names = self._names
        return [
            dataclasses.replace(part, where=tuple(names[part.first : part.last]))
            for part in super().parts(size)
        ]

    @functools.cached_property
    def _names(self) -> list[str]:
        return _image_names(self.path)

    def read(self, part: Part) -> Iterator[Item]:
        """The images of a part."""
        return _items(self.path, part.where, part.first)


@dataclasses.dataclass(frozen=True)
class LabelledFolder(Source):
    """A split of a folder with a sub-folder of images for each class, in its stored order."""

    path: str
    split: str

    has_labels = True

    def describe(self) -> dict[str, Any]:
        """Names, sizes and numbers."""
        found = self._listing
        names = tfrecord_files.digest(list(zip(found.files, found.labels, strict=True)))
        return {"dataset": "a folder", "split": self.split, "count": self.count(), "names": names}

    def count(self) -> int:
        """The number of images."""
        return len(self._listing.files)

    def parts(self, size: int) -> list[Part]:
        """All images, in parts of `size`."""
        rows = list(zip(self._listing.files, self._listing.labels, strict=True))
        return [
            dataclasses.replace(part, where=tuple(rows[part.first : part.last]))
            for part in super().parts(size)
        ]

    @functools.cached_property
    def _listing(self) -> folder_listing.Listing:
        return folder_listing.listed(self.path, self.split)

    def read(self, part: Part) -> Iterator[Item]:
        """The images of a part."""
        names = [name for name, _ in part.where]
        root = os.path.expanduser(self.path)
        for item, (_, label) in zip(_items(root, names, part.first), part.where, strict=True):
            yield dataclasses.replace(item, label=label)


def _items(root: str, names: Sequence[str], first: int) -> Iterator[Item]:
    """Files of a folder by their names, with their contents."""
    for index, name in enumerate(names, first):
        path = storage.join(root, name)
        try:
            content = storage.read(path, images.MAX_BYTES)
        except (OSError, ValueError) as error:
            reason = f"{path!r}: got a file that cannot be read ({first_line(error)})"
            yield Item(index, name, None, reason=reason)
        else:
            yield Item(index, name, content)


def _image_names(path: str) -> list[str]:
    if not storage.exists(path):
        raise DataError(
            f"images: got {path!r}, which does not exist; expected a folder. Check the working "
            "directory."
        )
    try:
        names = storage.walk(path)
    except OSError as error:
        raise DataError(
            f"images: got {path!r}, which cannot be read ({error.strerror}); expected a readable "
            "folder. Check its permissions."
        ) from error
    names = [name for name in names if name.lower().endswith(SUFFIXES)]
    if not names:
        raise DataError(
            f"images: got {path!r}, a folder without images; expected files that end in "
            f"{', '.join(SUFFIXES)}."
        )
    return names
