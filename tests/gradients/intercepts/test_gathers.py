"""Layers that gather examples, whose gradients TensorFlow returns as `tf.IndexedSlices`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.variants import with_slow
from tfgrad import export, saliency

L = keras.layers


def scaled(image):
    return image / (1 + tf.reduce_max(image))


class Vectorized(L.Layer):
    """Each image divided by 1 + its maximum."""

    def call(self, x):
        return tf.vectorized_map(scaled, x)


class Batched(L.Layer):
    """The same, without a loop."""

    def call(self, x):
        return x / (1 + tf.reduce_max(x, [1, 2, 3], keepdims=True))


class Gathered(L.Layer):
    """The batch, gathered in its own order."""

    def call(self, x):
        return tf.gather(x, tf.range(tf.shape(x)[0]))


class Same(L.Layer):
    def call(self, x):
        return tf.identity(x)


def network(layer, first=False):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1))
    convolution = L.Conv2D(3, 3, activation="silu", bias_initializer="normal", name="conv")
    x = convolution(layer(inputs)) if first else layer(convolution(inputs))
    return keras.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))


def images():
    return np.random.default_rng(0).uniform(size=(2, 6, 6, 1)).astype("float32")


PAIRS = {"vectorized": (Vectorized, Batched), "gathered": (Gathered, Same)}


@pytest.mark.parametrize(
    ("name", "first"),
    with_slow(
        [("gathered", True)], [("vectorized", False), ("vectorized", True), ("gathered", False)]
    ),
)
def test_maps_and_terms_in_a_graph(name, first):
    with_gathers, plain = (network(layer(), first) for layer in PAIRS[name])
    full, expected = (tfgrad.full_gradients(m, images(), 0) for m in (with_gathers, plain))
    assert np.max(full.completeness_error()) < 1e-5
    found, same = (sum(map(tf.reduce_sum, f.bias_gradients.values())) for f in (full, expected))
    np.testing.assert_allclose(found, same, rtol=1e-4)
    for method in (saliency.FullGrad, saliency.GradCAM):
        maps, right = (method(m)(images(), 0) for m in (with_gathers, plain))
        np.testing.assert_allclose(maps, right, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_an_export_takes_any_number_of_images(tmp_path):
    model = network(Vectorized())
    path = export.save(model, tmp_path, ["fullgrad"], image_range=(0, 1), warmup=False)
    served = tf.saved_model.load(path).signatures["fullgrad"]
    maps = served(image=tf.constant(images()), target=tf.constant([0, 1]))["saliency"]
    np.testing.assert_allclose(maps, saliency.FullGrad(model)(images(), [0, 1]), rtol=1e-4)
