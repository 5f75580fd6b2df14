"""Data sets in memory: what they hold, what they reject, how they are divided."""

import numpy as np
import pytest

from tfgrad import data
from tfgrad.errors import ArgumentError, DataError


def test_from_arrays_converts_types_and_names_classes():
    dataset = data.from_arrays(np.zeros((3, 4, 5, 1), np.float64), np.array([2, 0, 1], np.uint8))
    assert dataset.images.dtype == np.float32
    assert dataset.labels.dtype == np.int32
    assert dataset.classes == ("0", "1", "2")
    assert (dataset.name, dataset.split, len(dataset)) == ("arrays", "train", 3)
    assert dataset.image_shape == (4, 5, 1)
    assert "0." not in repr(dataset)  # No pixels.


FLOATS = np.full((3, 4, 4, 1), 0.5, np.float32)


def spoiled(value):
    images = FLOATS.copy()
    images[1, 2, 3, 0] = value
    return images


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (
            spoiled(np.nan),
            [0, 1, 2],
            r"images: got NaN or infinite pixels in 'arrays', first in image 1",
        ),
        (spoiled(np.inf), [0, 1, 2], r"NaN or infinite pixels in .*, first in image 1"),
        (
            spoiled(1.5),
            [0, 1, 2],
            r"pixels in \[0.5, 1.5\] in .*; expected float pixels in \[0, 1\]",
        ),
        (FLOATS * 255, [0, 1, 2], r"Divide pixels in \[0, 255\] by 255"),
        (
            FLOATS[..., 0],
            [0, 1, 2],
            r"shape \(3, 4, 4\) in .*; expected .*pass images\[..., None\]",
        ),
        (
            FLOATS[0, 0],
            [0, 1, 2],
            r"shape \(4, 1\) in .*; expected \[n, height, width, channels\]\. Series have",
        ),
        (FLOATS[:0], [], r"empty shape \(0, 4, 4, 1\)"),
        (FLOATS.astype(np.int64), [0, 1, 2], r"images: got int64 in 'arrays'; expected uint8"),
        (FLOATS, [0, 1], r"labels: got 2 in 'arrays'; expected 3, one per image"),
        (FLOATS, [0, -1, 2], r"labels: got -1 to 2 in 'arrays'; expected class indices from 0"),
        (FLOATS, np.eye(3, dtype=int), r"shape \(3, 3\) in .* one-hot .*np.argmax"),
        (FLOATS, np.zeros((3, 1), int), r"shape \(3, 1\) in .*Pass labels\[:, 0\]"),
        (
            FLOATS,
            [0.0, 1.0, 2.0],
            r"labels: got float64 in 'arrays'; expected integer class indices",
        ),
    ],
)
def test_unusable_arrays(images, targets, message):
    with pytest.raises(DataError, match=message):
        data.from_arrays(images, np.asarray(targets, int if not len(targets) else None))


def test_labels_beyond_the_classes():
    with pytest.raises(
        DataError, match=r"labels: got 0 to 2 in .*; expected 0 to 1, the .* of its 2 classes"
    ):
        data.from_arrays(FLOATS, [0, 1, 2], classes=["cat", "dog"])


def test_digits():
    train, test = data.load(), data.load("digits", "test")
    assert train.images.shape == (1437, 8, 8, 1)
    assert test.images.shape == (360, 8, 8, 1)
    assert train.images.dtype == np.float32
    assert (train.images.min(), train.images.max()) == (0.0, 1.0)
    assert train.classes == tuple("0123456789")
    # 1,797 digits, 174 to 183 of each: a fifth of them is 35 to 37.
    assert set(np.bincount(test.labels)) <= {34, 35, 36, 37}
    np.testing.assert_array_equal(data.load().images, train.images)
    pixels = np.concatenate([train.images, test.images]).reshape(1797, -1)
    from sklearn.datasets import load_digits

    expected = load_digits().data / 16
    order, theirs = np.lexsort(pixels.T), np.lexsort(expected.T)
    np.testing.assert_array_equal(pixels[order], expected[theirs])  # Disjoint, and all of them.


@pytest.mark.parametrize(
    ("split", "count"), [("train[:100]", 100), ("train[-10%:]", 144), ("test[10:20]", 10)]
)
def test_slices_of_digits(split, count):
    assert len(data.load("digits", split)) == count


@pytest.mark.parametrize("split", ["validation", "train[", "train[1]", "train+test"])
def test_unknown_splits_of_digits(split):
    with pytest.raises(DataError, match="is unknown for 'digits'; expected 'train', 'test'"):
        data.load("digits", split)


def test_an_empty_slice_of_digits():
    with pytest.raises(
        DataError, match=r"split: got 'test\[5:5\]', which is empty in 'digits'; expected"
    ):
        data.load("digits", "test[5:5]")


def test_a_slice_beyond_the_digits():
    with pytest.raises(DataError, match=r"reaches beyond its 360 test examples"):
        data.load("digits", "test[:361]")


def test_digits_resized():
    images = data.load("digits", "test[:5]", image_size=(32, 24)).images
    assert images.shape == (5, 32, 24, 1)
    assert images.min() >= 0.0
    assert images.max() <= 1.0


@pytest.mark.parametrize("image_size", [32, (32,), (0, 32), (32.0, 32)])
def test_malformed_image_sizes(image_size):
    with pytest.raises(ArgumentError, match=r"image_size: got .*; expected two integers ≥ 1"):
        data.load("digits", "test", image_size=image_size)


def test_subset_draws_per_class():
    digits = data.load("digits", "test")
    five, ten = data.subset(digits, 5, seed=3), data.subset(digits, 10, seed=3)
    assert np.bincount(five.labels).tolist() == [5] * 10
    assert np.bincount(ten.labels).tolist() == [10] * 10
    assert {image.tobytes() for image in five.images} < {image.tobytes() for image in ten.images}
    again, other = data.subset(digits, 5, seed=3), data.subset(digits, 5, seed=4)
    np.testing.assert_array_equal(five.images, again.images)
    assert not np.array_equal(five.images, other.images)


def test_subset_keeps_image_and_label_together():
    images = np.broadcast_to(np.arange(23, dtype=np.uint8)[:, None, None, None], (23, 8, 8, 1))
    pairs = data.subset(data.from_arrays(images, np.arange(23) // 6), 2, seed=0)
    np.testing.assert_array_equal(pairs.images[:, 0, 0, 0] // 6, pairs.labels)
    assert (np.diff(pairs.images[:, 0, 0, 0].astype(int)) > 0).all()  # Stored order.


def test_subset_of_too_few():
    dataset = data.from_arrays(FLOATS, [0, 0, 1], classes=["cat", "dog"])
    with pytest.raises(
        DataError,
        match=r"per_class: got 2; expected at most 1, .* class 'dog' of 'arrays' \(train\)",
    ):
        data.subset(dataset, 2, seed=0)


@pytest.mark.parametrize(("argument", "value"), [("per_class", 0), ("seed", -1), ("seed", 0.5)])
def test_subset_arguments(argument, value):
    with pytest.raises(ArgumentError, match=f"{argument}: got {value}; expected an integer ≥ "):
        data.subset(
            data.from_arrays(FLOATS, [0, 1, 2]), **{"per_class": 1, "seed": 0, argument: value}
        )


@pytest.mark.parametrize("stored", [np.uint8, np.float32])
def test_channel_statistics(stored):
    images = np.random.default_rng(0).integers(0, 256, (150, 4, 5, 3), np.uint8)
    images[..., 2] = 51  # A constant channel: 0.2 everywhere.
    unit = (images / 255).astype(np.float64)
    dataset = data.from_arrays(images if stored == np.uint8 else unit, np.zeros(150, int))
    mean, std = data.channel_statistics(dataset)
    np.testing.assert_allclose(mean, unit.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std[:2], unit.std(axis=(0, 1, 2))[:2], rtol=1e-6)
    assert std[2] == 1.0
