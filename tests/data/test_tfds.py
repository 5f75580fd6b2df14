"""Sets of TensorFlow Datasets, read offline: a tiny one built here, and CIFAR-10 where it lies."""

import builtins
import os
import pathlib
import sys

import numpy as np
import pytest

from tfgrad import data
from tfgrad.data import memory
from tfgrad.data import tfds as reader
from tfgrad.errors import DataError

tfds = pytest.importorskip("tensorflow_datasets")


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    """Six photos of one size, six of many, and a text, in a handful of bytes."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=name) for name in ("fixed", "varying", "text", "single")
    ]

    def _info(self):
        shape = (None, None, 3) if self.builder_config.name == "varying" else (4, 6, 3)
        features = {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
        if self.builder_config.name == "text":
            features = {"text": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, download_manager):
        splits = {"train": self._generate_examples(6), "test": self._generate_examples(2)}
        return {"train": splits["train"]} if self.builder_config.name == "single" else splits

    def _generate_examples(self, count):
        for i in range(count):
            if self.builder_config.name == "text":
                yield i, {"text": "no image"}
                continue
            height = 4 + i if self.builder_config.name == "varying" else 4
            yield i, {"image": np.full((height, 6, 3), 10 * i, np.uint8), "label": i % 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    for config in ("fixed", "varying", "text", "single"):
        builder = TinyPhotos(data_dir=str(directory), config=config)
        builder.download_and_prepare()
    return directory


def test_a_tfds_set(tiny):
    train = data.load("tiny_photos/fixed", "train", data_dir=tiny)
    assert train.images.shape == (6, 4, 6, 3)
    assert train.images.dtype == np.uint8
    assert train.classes == ("cat", "dog")
    assert (train.name, train.split) == ("tiny_photos/fixed", "train")
    np.testing.assert_array_equal(sorted(train.images[:, 0, 0, 0]), 10 * np.arange(6))
    np.testing.assert_array_equal(train.images[:, 0, 0, 0] // 10 % 2, train.labels)
    assert len(data.load("tiny_photos/fixed", "test", data_dir=str(tiny))) == 2
    again = data.load("tiny_photos/fixed", "train[2:4]", data_dir=tiny)
    np.testing.assert_array_equal(again.images, train.images[2:4])


@pytest.mark.long
@pytest.mark.parametrize("split", ["train", "train[1:]+test", "train[:50%]+train[50%:]"])
def test_a_split_is_read_in_parts(tiny, split):
    whole = data.load("tiny_photos/fixed", split, data_dir=tiny)
    opened = reader.opened("tiny_photos/fixed", split, tiny, False)
    assert (opened.count, opened.classes) == (len(whole), whole.classes)
    for first, last in ((0, 1), (1, 3), (2, opened.count), (opened.count - 1, opened.count)):
        rows = list(opened.encoded(first, last).as_numpy_iterator())
        pixels = [opened.pixels(image, None).numpy() for image, _ in rows]
        np.testing.assert_array_equal(pixels, whole.images[first:last])
        np.testing.assert_array_equal([label for _, label in rows], whole.labels[first:last])


def test_sizes_that_vary(tiny):
    with pytest.raises(
        DataError, match=r"image_size: got None .*vary in size \(shape \(None, None, 3\)\); exp"
    ):
        data.load("tiny_photos/varying", data_dir=tiny)
    resized = data.load("tiny_photos/varying", data_dir=tiny, image_size=(3, 5))
    assert resized.images.shape == (6, 3, 5, 3)
    assert resized.images.dtype == np.uint8
    # Photos of one colour keep it at any size.
    np.testing.assert_array_equal(resized.images.min((1, 2, 3)), resized.images.max((1, 2, 3)))
    assert set(resized.images[:, 0, 0, 0]) == {0, 10, 20, 30, 40, 50}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "tiny_photo"}, "unknown to TFDS; expected 'digits', .*Close .*'tiny_photos'"),
        (
            {"name": "tiny_photos/other"},
            "name: got 'tiny_photos/other', which cannot be opened .*other",
        ),
        (
            {"name": "tiny_photos/text"},
            "is no image classification set .it has text: Text.; expected",
        ),
        (
            {"split": "validation"},
            r"split: got 'validation', which is unknown .*'test': 2, 'train': 6",
        ),
        ({"split": "train[:7]"}, r"split: got 'train\[:7\]', which is unknown .*'train': 6"),
        ({"split": "train["}, r"split: got 'train\[', which is unknown"),
        ({"split": "train[3:3]"}, "which is empty in 'tiny_photos/fixed'; expected"),
        ({"name": "tiny_photos/single", "split": "test"}, r"use slices .* 'train\[80%:\]' to test"),
        ({"data_dir": "/nowhere"}, "data_dir: got '/nowhere', which is no directory; expected"),
    ],
)
def test_unusable_tfds_sets(tiny, options, message):
    with pytest.raises(DataError, match=message):
        data.load(**{"name": "tiny_photos/fixed", "data_dir": tiny, **options})


def test_a_folder_that_does_not_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    expected = "got 'phots', of which there is no folder here.* Did you mean the folder 'photos'?"
    with pytest.raises(DataError, match=expected):
        data.load("phots")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # as if it were not installed
    with pytest.raises(DataError, match=expected + r".*pip install tfgrad\[data\]"):
        data.load("phots")


def test_a_set_that_is_not_prepared(tmp_path):
    with pytest.raises(DataError, match=r"is not prepared .*; expected .* pass download=True"):
        data.load("tiny_photos/fixed", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(data.load("tiny_photos/fixed", data_dir=tmp_path, download=True)) == 6


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be (opened|downloaded)"):
        data.load("tiny_photos/fixed", data_dir=tmp_path / "file" / "below", download=True)


def test_a_truncated_file(tmp_path):
    TinyPhotos(data_dir=str(tmp_path), config="fixed").download_and_prepare()
    (record,) = tmp_path.glob("tiny_photos/fixed/1.0.0/*-train.tfrecord*")
    record.write_bytes(record.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"cannot be read after .* of 6 examples .*; expected all"):
        data.load("tiny_photos/fixed", data_dir=tmp_path)


def test_a_set_too_large_for_memory(tiny, monkeypatch):
    monkeypatch.setattr(memory, "LIMIT", 400)  # 6 images of 4 · 6 · 3 are 432 bytes.
    with pytest.raises(DataError, match=r"6 images of 4×6×3.*split='train\[:10000\]'"):
        data.load("tiny_photos/fixed", data_dir=tiny)
    assert len(data.load("tiny_photos/fixed", "train[:5]", data_dir=tiny)) == 5


def test_without_tfds(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "tensorflow_datasets":
            raise ImportError("No module named 'tensorflow_datasets'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"Run `pip install tfgrad\[data\]`, or use name='digits'"):
        data.load("mnist")
    assert len(data.load("digits", "test")) == 360


def _real_data():
    beside = pathlib.Path(__file__).parents[3] / "shared" / "data" / "tensorflow_datasets"
    directory = pathlib.Path(os.environ.get("TFGRAD_DATA_DIR", beside))
    return directory if directory.is_dir() else None


@pytest.mark.long
def test_a_real_set_where_there_is_one(tiny):
    """CIFAR-10 where TFGRAD_DATA_DIR or a directory beside the checkout has it."""
    directory = _real_data()
    if directory is None or not (directory / "cifar10").is_dir():
        directory, name, shape, classes = tiny, "tiny_photos/fixed", (4, 6, 3), 2
    else:
        name, shape, classes = "cifar10", (32, 32, 3), 10
    dataset = data.load(name, "test[:100%]", data_dir=directory)
    assert dataset.image_shape == shape
    assert len(dataset.classes) == classes
    assert len(np.unique(dataset.labels)) == classes
    mean, std = data.channel_statistics(dataset)
    assert (mean > 0).all()
    assert (mean < 1).all()
    assert (std > 0).all()
