"""Folders of labelled images in memory: pixels, sizes, and files that are broken."""

import sys
import types
import warnings

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.image_folders import write, write_folder
from tfgrad import data
from tfgrad.data import memory
from tfgrad.data.named_sets import is_folder
from tfgrad.errors import ArgumentError, DataError, ImagesLeftOutWarning


@pytest.fixture
def pets(tmp_path):
    return write_folder(tmp_path / "pets", {"cat": 5, "dog": 10})


def test_pixels_and_labels(pets):
    train, test = data.load(pets), data.load(str(pets), "test")
    assert train.images.dtype == np.uint8 and train.images.shape == (12, 6, 8, 3)
    assert (len(train), len(test)) == (12, 3) and train.classes == ("cat", "dog")
    assert (train.name, train.split) == (str(pets), "train")
    everything = data.load(pets, "all")
    values = everything.images[:, 0, 0, 0]
    assert sorted(values) == [*range(5), *range(60, 70)]
    np.testing.assert_array_equal(values // 60, everything.labels)
    assert (everything.images == values[:, None, None, None]).all()
    both = np.concatenate([train.images, test.images])[:, 0, 0, 0]
    assert sorted(both) == sorted(values)
    part = data.load(pets, "train[:25%]")
    np.testing.assert_array_equal(part.images, train.images[:3])


def test_photographs_are_resized_as_those_of_tfds(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise/a.png").write_bytes(tf.io.encode_png(pixels).numpy())
    write(tmp_path / "white/a", 255, (50, 20), ".jpg")
    found = data.load(tmp_path, "all", image_size=(10, 12))
    expected = tf.clip_by_value(tf.round(tf.image.resize(pixels, (10, 12), antialias=True)), 0, 255)
    assert np.abs(found.images[0] - expected.numpy()).max() <= 1  # a half may be rounded either way
    assert np.mean(found.images[0] != expected.numpy()) < 0.01
    assert (found.images[1] == 255).all()
    with pytest.raises(
        DataError, match=r"image_size: got None .* vary in size .*; try image_size=\(64, 64\)"
    ):
        data.load(tmp_path, "all")


def test_broken_images_are_left_out_and_counted(pets):
    (pets / "cat/003.png").write_bytes(b"GIF89a")
    (pets / "dog/picture.webp").write_bytes(b"RIFF....WEBP")
    write(pets / "beside", 0)
    with pytest.warns(ImagesLeftOutWarning) as warned:
        found = data.load(pets, "all")
    assert len(found) == 14 and len(found.labels) == 14
    values = found.images[:, 0, 0, 0]
    assert sorted(values) == [0, 1, 2, 4, *range(60, 70)]
    np.testing.assert_array_equal(values // 60, found.labels)
    messages = sorted(str(one.message) for one in warned)
    assert "in which 1 images lie" in messages[0] and "'beside.png'" in messages[0]
    assert "2 of the 16 images of 'all'" in messages[1]
    assert "picture.webp': got a WebP" in messages[1]  # the first in stored order


def test_what_is_broken_does_not_move_the_others(pets):
    before = data.load(pets, "test").images[:, 0, 0, 0]
    (pets / "dog/000.png").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImagesLeftOutWarning)
        after = data.load(pets, "test").images[:, 0, 0, 0]
    np.testing.assert_array_equal(after, before[before != 60])


def test_nothing_that_can_be_read(pets):
    for path in (pets / "cat").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of the 4 images of 'train, class cat' can be read"):
        data.load(pets)
    for path in (pets / "dog").iterdir():
        path.write_bytes(b"no image")
    for size in (None, (4, 4)):
        with pytest.raises(
            DataError, match=r"none of the 12 images of 'train' can be read; .*JPEG"
        ):
            data.load(pets, image_size=size)


def test_a_folder_too_large_for_memory(pets, monkeypatch):
    monkeypatch.setattr(memory, "LIMIT", 12 * 6 * 8 * 3 - 1)
    with pytest.raises(DataError, match=r"12 images of 6×8×3.*split='train\[:10000\]'"):
        data.load(pets)
    assert len(data.load(pets, "train[:11]")) == 11


def test_names_of_folders_and_of_sets(pets, monkeypatch):
    sets = types.SimpleNamespace(list_builders=lambda with_community_datasets: ["mnist"])
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", sets)
    monkeypatch.chdir(pets)
    for name in ("mnist", "digits", "photos", "prepared"):
        (pets / name).mkdir()
    (pets / "data/prepared").mkdir(parents=True)
    assert not is_folder("digits") and not is_folder("mnist") and not is_folder("elsewhere")
    assert is_folder("./digits") and is_folder("./mnist") and is_folder("photos")
    assert is_folder(pets) and is_folder(".") and is_folder("prepared")
    assert not is_folder("prepared", data_dir=pets / "data")
    monkeypatch.setenv("HOME", str(pets))
    assert is_folder("~/photos")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert is_folder("mnist")


def test_paths_that_are_no_folder(pets):
    with pytest.raises(DataError, match=r"nowhere', which does not exist; .* working directory"):
        data.load(pets / "nowhere")
    with pytest.raises(DataError, match=r"000.png', a file; expected a folder"):
        data.load(pets / "cat/000.png")


def test_a_link_to_itself_is_a_file_that_cannot_be_read(pets):
    (pets / "cat/loop.png").symlink_to("loop.png")
    with pytest.warns(ImagesLeftOutWarning, match="in which 1 of the 16 images of 'all'"):
        found = data.load(pets, "all")
    assert len(found) == 15


def test_a_size_as_a_list_and_a_split_that_is_no_name(pets):
    tuple_, list_ = (data.load(pets, "all", image_size=size) for size in ((6, 5), [6, 5]))
    np.testing.assert_array_equal(tuple_.images, list_.images)
    with pytest.raises(ArgumentError, match="split: got None; expected a name"):
        data.load(pets, None)
