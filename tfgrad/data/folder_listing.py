"""The labelled image files of a folder: which there are, and which split each belongs to."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from tfgrad.data import splits
from tfgrad.errors import DataError

TRAIN, TEST, ALL = "train", "test", "all"
# Sub-folders of these names, in any case, are splits, and not classes.
SPLITS = {"train": TRAIN, "test": TEST, "val": "validation", "validation": "validation"}
SUFFIXES = (".jpg", ".jpeg", ".png")
# Images in formats that are not decoded: listed, so that they are not left out in silence.
_OTHERS = (".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jfif", ".jp2")
# One image of so many is for the test, where the folder has no splits.
_TEST_SHARE = 5

_LAYOUT = "FOLDER/CLASS/*.jpg or .png, or FOLDER/{train,test}/CLASS/*"


@dataclasses.dataclass(frozen=True)
class Listing:
    """The image files of one split of a folder, which are not read yet.

    Attributes:
        folder: The folder, as it was given.
        split: The split, or a slice of it.
        files: Paths below the folder, with "/", in stored order.
        labels: Index of the class of each.
        classes: Names of the classes.
        is_whole: Whether the split is no slice.
        loose: Image files that lie in no folder of a class, which belong to no split.
    """

    folder: str
    split: str
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    is_whole: bool
    loose: tuple[str, ...] = ()

    def path(self, file: str) -> str:
        """The path of one of the files."""
        return os.path.join(os.path.expanduser(self.folder), *file.split("/"))


def digest(listings: Iterable[Listing]) -> str:
    """A digest of the names and sizes of files, which tells whether any was added or removed."""
    found = hashlib.sha256()
    for one in listings:
        for file in one.files:
            size = os.path.getsize(one.path(file)) if os.path.exists(one.path(file)) else -1
            found.update(f"{file}:{size}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:16]


def listed(folder: str, split: str) -> Listing:
    """List the images of a split of a folder; no file is opened.

    Args:
        folder: FOLDER/CLASS/*.jpg or .png, or FOLDER/{train,test,val,validation}/CLASS/*.
        split: A split, "all", or a slice of one.

    Raises:
        DataError: The folder cannot be read, has another layout, a class without images, classes
            that its train split lacks, or no such split.
    """
    found = _Folder(folder)
    name, first, last = splits.parsed(_with_long_name(split), found.splits, folder)
    classes = found.classes
    members = _in_split(found, name)
    order = _mixed(members, classes)
    chosen = order[splits.within(first, last, len(order), split, name, folder)]
    return Listing(
        folder,
        split,
        tuple(file for file, _ in chosen),
        tuple(label for _, label in chosen),
        classes,
        "[" not in split,
        found.loose,
    )


class _Folder:
    """The layout of a folder.

    Attributes:
        members: {split: {class: paths below the folder}}; of a folder without splits, all of them
            are in "all".
        classes: Names of the classes, sorted.
        splits: Names of the splits.
        loose: Image files beside the folders of the classes.
    """

    def __init__(self, folder: str) -> None:
        self.folder, self._root = folder, os.path.expanduser(folder)
        inside, loose = self._entries("")
        if not inside:
            what = f"{len(loose)} images, but no sub-folders" if loose else "no sub-folders"
            raise DataError(
                f"name: got the folder {folder!r} with {what}; expected {_LAYOUT}. Move the images "
                "of each class to a sub-folder of its name."
            )
        named = {name: SPLITS[name.lower()] for name in inside if name.lower() in SPLITS}
        self.has_splits = len(named) == len(inside)
        others = [name for name in inside if name not in named]
        if len(named) > 1 and others:
            raise DataError(
                f"name: got the folder {folder!r}, in which {others[0]!r} stands beside "
                f"{' and '.join(map(repr, sorted(named)))}; expected either splits or classes. "
                "Move it elsewhere, or rename them."
            )
        if len({*named.values()}) < len(named) and self.has_splits:
            raise DataError(
                f"name: got the folder {folder!r} with {', '.join(map(repr, sorted(named)))}, two "
                "of which are the same split; expected each once. Rename one."
            )
        self.members: Mapping[str, Mapping[str, Sequence[str]]]
        if self.has_splits:
            found = {split: self._classes(name + "/") for name, split in sorted(named.items())}
            self.members = {split: members for split, (members, _) in found.items()}
            loose = [*loose, *(file for _, inner in found.values() for file in inner)]
            self.splits = (*self.members, ALL)
        else:
            self.members = {ALL: {name: self._images(name) for name in sorted(inside)}}
            self.splits = (TRAIN, TEST, ALL)
        self.loose = tuple(loose)
        self.classes = self._checked_classes()

    def _checked_classes(self) -> tuple[str, ...]:
        first = TRAIN if TRAIN in self.members else next(iter(self.members))
        classes = tuple(sorted(self.members[first]))
        if len(classes) < 2:
            raise DataError(
                f"name: got the folder {self.folder!r} with one class, {classes[0]!r}; expected "
                f"two or more, one sub-folder each: {_LAYOUT}."
            )
        for split, members in self.members.items():
            unknown = sorted({*members} - {*classes})
            if unknown:
                raise DataError(
                    f"name: got the folder {self.folder!r}, whose split {split!r} has the class "
                    f"{unknown[0]!r}, which {first!r} lacks; expected classes of {first!r}: "
                    f"{', '.join(map(repr, classes))}. Rename or move its folder."
                )
        return classes

    def _classes(self, prefix: str) -> tuple[dict[str, list[str]], list[str]]:
        """({class: its images}, images in no class) of one split."""
        inside, loose = self._entries(prefix)
        if not inside:
            raise DataError(
                f"name: got the folder {self.folder!r}, whose {prefix!r} has no sub-folders; "
                f"expected {_LAYOUT}. Move the images of each class to a sub-folder of its name."
            )
        return {name: self._images(prefix + name) for name in sorted(inside)}, loose

    def _images(self, name: str) -> list[str]:
        """The images of one class."""
        inside, files = self._entries(name + "/")
        if inside:
            raise DataError(
                f"name: got the folder {self.folder!r}, in which the class {name!r} has the "
                f"sub-folder {inside[0]!r}; expected images alone: {_LAYOUT}. Move its files up, "
                "or name a folder further down."
            )
        if not files:
            raise DataError(
                f"name: got the folder {self.folder!r}, in which the class {name!r} has no images; "
                f"expected files that end in {', '.join(SUFFIXES)}. Remove the folder, or fill it."
            )
        return files

    def _entries(self, prefix: str) -> tuple[list[str], list[str]]:
        """(names of sub-folders, paths of images) in a folder; hidden ones are none."""
        path = os.path.join(self._root, *prefix.split("/"))
        folders, images = [], []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        folders.append(entry.name)
                    elif entry.name.lower().endswith((*SUFFIXES, *_OTHERS)):
                        images.append(prefix + entry.name)
        except OSError as error:
            raise DataError(
                f"name: got the folder {self.folder!r}, of which {path!r} cannot be read "
                f"({error.strerror}); expected a readable folder. Check its permissions."
            ) from error
        return sorted(folders), sorted(images)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link that leads nowhere is a file."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _with_long_name(split: str) -> str:
    """The split in the name that it has here: "validation" for "val"."""
    name, bracket, rest = split.partition("[")
    return SPLITS.get(name, name) + bracket + rest


def _in_split(found: _Folder, name: str) -> dict[str, list[str]]:
    """{class: its images in a split}, those of each class in the order of their digests."""
    if found.has_splits:
        parts = found.members.values() if name == ALL else [found.members[name]]
        joined = {
            label: [f for part in parts for f in part.get(label, ())] for label in found.classes
        }
        return {label: sorted(files, key=_digest) for label, files in joined.items()}
    chosen = {}
    for label, files in found.members[ALL].items():
        ordered = sorted(files, key=_digest)
        if name != ALL and len(ordered) < 2:
            raise DataError(
                f"split: got {name!r} of {found.folder!r}, whose class {label!r} has one image; "
                "expected two or more, of which one is for the test. Add images, or take 'all'."
            )
        tested = max(1, round(len(ordered) / _TEST_SHARE))
        chosen[label] = {ALL: ordered, TEST: ordered[:tested], TRAIN: ordered[tested:]}[name]
    return chosen


def _digest(file: str) -> bytes:
    """A number that depends on a path alone, however the file system writes its letters."""
    text = unicodedata.normalize("NFC", file)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _mixed(members: Mapping[str, Sequence[str]], classes: Sequence[str]) -> list[tuple[str, int]]:
    """(file, label) of all classes, each spread evenly from the first position on.

    The first examples are one of each class, and every slice has them in equal proportions.
    """
    placed = [
        (i / len(members[name]), label, file)
        for label, name in enumerate(classes)
        for i, file in enumerate(members[name])
    ]
    return [(file, label) for _, label, file in sorted(placed, key=lambda one: one[:2])]
