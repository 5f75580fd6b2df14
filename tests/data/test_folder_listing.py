"""Which files of a folder belong to which split: by their names alone."""

import os
import pathlib

import pytest

from tfgrad.data import folder_listing
from tfgrad.errors import DataError


def touch(root, *files):
    for file in files:
        path = pathlib.Path(root, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(root)


def named(count, name):
    return [f"{name}/{i:03d}.jpg" for i in range(count)]


@pytest.fixture
def pets(tmp_path):
    """40 cats, 10 dogs, 2 elks, and files that are no images."""
    files = [*named(40, "cat"), *named(10, "dog"), *named(2, "elk")]
    return touch(tmp_path / "pets", *files, ".hidden/a.jpg", "cat/.b.jpg", "cat/notes.txt", "a.csv")


def splits_of(folder):
    return {name: folder_listing.listed(folder, name) for name in ("train", "test", "all")}


def test_a_fifth_of_each_class_is_for_the_test(pets):
    found = splits_of(pets)
    counts = {
        name: [one.labels.count(k) for k in range(len(one.classes))] for name, one in found.items()
    }
    assert counts == {"train": [32, 8, 1], "test": [8, 2, 1], "all": [40, 10, 2]}
    assert found["all"].classes == ("cat", "dog", "elk")
    assert {*found["train"].files} | {*found["test"].files} == {*found["all"].files}
    assert not {*found["train"].files} & {*found["test"].files}
    for one in found.values():
        for file, label in zip(one.files, one.labels, strict=True):
            assert file.startswith(one.classes[label] + "/")
            assert os.path.isfile(one.path(file))


def test_the_split_does_not_depend_on_the_order_of_the_directory(pets, monkeypatch):
    before, scandir = splits_of(pets), os.scandir

    class Reversed:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(folder_listing.os, "scandir", Reversed)
    assert splits_of(pets) == before


def test_files_that_are_added_move_few_others(pets):
    before = {*folder_listing.listed(pets, "test").files}
    touch(pets, *(f"cat/new-{i}.jpg" for i in range(5)))
    after = {*folder_listing.listed(pets, "test").files}
    assert len(after) == len(before) + 1  # 45 cats
    assert len(before - after) <= 2  # those that new files with smaller digests replace
    other = {file for file in after if not file.startswith("cat/")}
    assert other == {file for file in before if not file.startswith("cat/")}


def test_the_choice_is_that_of_this_digest(tmp_path):
    """Worked out with `sha256sum`: a change would move images from training to test."""
    folder = touch(tmp_path, *named(5, "a"), *named(5, "b"))
    assert folder_listing.listed(folder, "test").files == TESTED


TESTED = ("a/003.jpg", "b/004.jpg")


def test_every_slice_holds_every_class(pets):
    whole = folder_listing.listed(pets, "train")
    assert whole.labels[:3] == (0, 1, 2)
    for split in ("train[:3]", "train[:50%]", "train[:-5]"):
        part = folder_listing.listed(pets, split)
        assert {*part.labels} == {0, 1, 2} and part.files == whole.files[: len(part.files)]
        assert not part.is_whole
    part = folder_listing.listed(pets, "train[:50%]").labels
    assert [part.count(k) for k in range(3)] == [15, 4, 1]  # half of 32, 8 and 1


def test_folders_of_splits(tmp_path):
    files = [*named(3, "Train/cat"), *named(2, "Train/dog"), *named(1, "val/dog")]
    folder = touch(tmp_path, *files, "val/loose.png", "beside.jpg")
    train, val = (folder_listing.listed(folder, name) for name in ("train", "val[:1]"))
    assert sorted(train.files) == sorted(files[:5]) and train.classes == ("cat", "dog")
    assert val.files == ("val/dog/000.jpg",) and val.labels == (1,)
    assert folder_listing.listed(folder, "validation").files == val.files
    assert len(folder_listing.listed(folder, "all").files) == 6
    assert train.loose == ("beside.jpg", "val/loose.png")
    with pytest.raises(
        DataError, match=r"got 'test', .*; expected 'train', 'validation', 'all' or"
    ):
        folder_listing.listed(folder, "test")


def test_train_can_be_a_class(tmp_path):
    folder = touch(tmp_path, *named(2, "bus"), *named(2, "train"))
    assert folder_listing.listed(folder, "all").classes == ("bus", "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "with no sub-folders; expected FOLDER/CLASS"),
        (["a.jpg", "b.png"], "with 2 images, but no sub-folders; .*Move the images of each class"),
        (named(3, "cat"), "with one class, 'cat'; expected two or more"),
        ([*named(2, "cat"), "dog/notes.txt"], "the class 'dog' has no images; .*Remove the folder"),
        ([*named(2, "cat/a"), *named(2, "dog")], "the class 'cat' has the sub-folder 'a'"),
        ([*named(2, "cat"), "dog/a.jpg"], "class 'dog' has one image; .* or take 'all'"),
        (
            [*named(1, "train/a"), *named(1, "train/b"), *named(1, "test/c")],
            "split 'test' has the class 'c', which 'train' lacks; expected .*: 'a', 'b'",
        ),
        (
            [*named(1, "train/a"), *named(1, "test/a"), *named(1, "extra")],
            "'extra' stands beside 'test' and 'train'; expected either splits or classes",
        ),
        (
            [*named(1, "train/a"), *named(1, "val/a"), *named(1, "validation/a")],
            "two of which are the same split",
        ),
        ([*named(1, "train/a"), *named(1, "train/b"), "test/a.jpg"], "'test/' has no sub-folders"),
    ],
)
def test_other_layouts(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        folder_listing.listed(touch(tmp_path, *files), "train")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("tset", r"split: got 'tset', which is unknown .*expected 'train', 'test', 'all' or"),
        ("train+test", "is unknown"),
        ("test[:12]", "reaches beyond its 11 test examples"),
        ("all[5:5]", r"is empty .* Try 'all'"),
    ],
)
def test_unusable_splits(pets, split, message):
    with pytest.raises(DataError, match=message):
        folder_listing.listed(pets, split)


def test_an_unreadable_folder(pets, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).rstrip("/").endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(folder_listing.os, "scandir", refuse)
    with pytest.raises(DataError, match=r"of which '.*dog.*' cannot be read \(Permission denied\)"):
        folder_listing.listed(pets, "train")
