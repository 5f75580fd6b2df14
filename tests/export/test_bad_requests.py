"""Requests that every signature rejects: no images, and pixels that are not finite."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.serving_cases import floats, signatures
from tfgrad import export

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

METHODS = ("fullgrad", "input_gradient")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A network whose logits are finite for NaN images: max-pooling and ReLU drop NaN."""
    inputs = keras.Input((8, 9, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    x = keras.layers.MaxPooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    path = export.save(model, tmp_path_factory.mktemp("m"), METHODS, image_range=(0, 1))
    loaded, found = signatures(path)
    yield found
    del loaded


def asked(served, name, image):
    more = {} if name == "serving_default" else {"target": tf.fill([len(image)], -1)}
    return served[name](image=tf.constant(image), **more)


@pytest.mark.parametrize("name", ["serving_default", *METHODS])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_fail_the_request(served, name, value):
    image = floats(4)
    image[2, 3, 4, 1] = value
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"image: got NaN or infinite pixels in image 2 of the batch; expected finite ones",
    ):
        asked(served, name, image)


@pytest.mark.parametrize("name", ["serving_default", *METHODS])
def test_an_empty_batch_fails_the_request(served, name):
    with pytest.raises(tf.errors.InvalidArgumentError, match="image: got an empty batch; expected"):
        asked(served, name, floats(0))


def test_no_encoded_image_fails_the_request(served):
    none = tf.zeros([0], tf.string)
    with pytest.raises(tf.errors.InvalidArgumentError, match="image_bytes: got an empty batch"):
        served["encoded"](image_bytes=none, target=tf.zeros([0], tf.int32))


def test_finite_images_pass(served):
    huge = np.full((2, 8, 9, 3), 3e38, "float32")  # their sum is infinite
    asked(served, "serving_default", huge)
    for name in ("serving_default", *METHODS):
        assert all(np.isfinite(value).all() for value in asked(served, name, floats(2)).values())
