"""The GAN-test against a classifier that is known by construction."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError, NonFiniteError
from tfgrad.evaluation import gan_test


def judge(classes=3):
    """The class is the brightest of the first pixels."""
    network = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten()])
    network.add(keras.layers.Dense(classes, use_bias=False))
    network.set_weights([np.eye(4, classes, dtype="float32")])
    return network


def pictures(classes):
    images = np.zeros((len(classes), 4), "float32")
    images[range(len(classes)), classes] = 1
    return images.reshape(-1, 2, 2, 1)


def test_the_gan_test_by_hand():
    found = gan_test(judge(), pictures([0, 1, 2, 2, 2]), [0, 1, 1, 2, 0], classes=3, batch_size=2)
    assert found.value == 0.6 and found.examples == 5
    assert found.deviations[0] == pytest.approx(math.sqrt(0.6 * 0.4 / 5))
    right, wrong = np.array([math.e, 1]) / (math.e + 2)
    assert found.columns["mean probability"][0] == pytest.approx((3 * right + 2 * wrong) / 5)
    assert found.direction == "higher" and found.percent
    assert gan_test(judge(), tf.constant(pictures([1])), tf.constant([1])).deviations == (0.0,)


def test_what_the_gan_test_refuses():
    images, labels = pictures([0, 1, 2]), [0, 1, 2]
    with pytest.raises(ArgumentError, match=r"judge: got one of 3 classes for samples of 10"):
        gan_test(judge(), images, labels, classes=10)
    with pytest.raises(
        ArgumentError, match=r"images: got shape \(None, 3, 3, 1\); the judge takes \(None, 2, 2"
    ):
        gan_test(judge(), np.zeros((3, 3, 3, 1), "float32"), labels)
    with pytest.raises(ArgumentError, match=r"images: got uint8 \(3, 2, 2, 1\); expected float"):
        gan_test(judge(), images.astype("uint8"), labels)
    for wrong in ([0, 1], [0.0, 0.5, 2.0], np.eye(4, dtype=int)[:3], np.ones((3, 3))):
        with pytest.raises(ArgumentError, match=r"labels: got (int32|labels|shape|a row)"):
            gan_test(judge(), images, wrong)
    right = gan_test(judge(), images, labels).values
    for same in (np.array(labels, "float32"), np.eye(3)):
        assert gan_test(judge(), images, same).values == right
    for wrong in ([0, 1, 3], [-1, 0, 1]):
        with pytest.raises(DataError, match=r"labels: got classes from .*; expected 0 to 2"):
            gan_test(judge(), images, wrong)
    with pytest.raises(DataError, match=r"images: got none"):
        gan_test(judge(), images[:0], [])
    with pytest.raises(NonFiniteError, match=r"judge: the logits of image 0 are NaN or infinite"):
        broken = judge()
        broken.set_weights([np.full((4, 3), np.nan)])
        gan_test(broken, images, labels)
    images[1] = np.nan
    with pytest.raises(DataError, match=r"images: image 1 of 3 holds NaN or infinite pixels"):
        gan_test(judge(), images, labels)
