"""The call whose feature maps a class activation map weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad import saliency
from tfgrad.errors import ArgumentError, ModelError

L, ops = keras.layers, keras.ops


class Windows(L.Layer):
    """Dense layers on 2 × 2 windows that are stacked on the batch axis."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = L.Dense(4, name="inner")

    def call(self, x):
        n, h, w, c = ops.shape(x)[0], *x.shape[1:]
        x = ops.reshape(x, (n, h // 2, 2, w // 2, 2, c))
        windows = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 2, 2, c))
        windows = self.inner(windows)
        x = ops.reshape(windows, (n, h // 2, w // 2, 2, 2, 4))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (n, h, w, 4))


class WithClassToken(L.Layer):
    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="ones")

    def call(self, x):
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], 1)


def images():
    return np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")


def same(network, layer):
    x = images()
    found = saliency.GradCAM(network)(x, 1)
    np.testing.assert_array_equal(found, saliency.GradCAM(network, layer)(x, 1))
    exported = tf.function(saliency.GradCAM(network).explain)(tf.constant(x), 1)["saliency"]
    np.testing.assert_allclose(exported, found, rtol=1e-5, atol=1e-6)
    assert found.shape == (2, 8, 8) and np.any(found)


def test_windows_on_the_batch_axis_are_no_feature_maps():
    inputs = keras.Input((8, 8, 3))
    windows = Windows(name="windows")(L.Conv2D(4, 1)(inputs))
    network = keras.Model(inputs, L.Dense(2)(L.Flatten()(windows)))
    same(network, "windows")
    with pytest.raises(
        ArgumentError, match=r"layer: got 'inner', .*\(16·batch, 2, 2, 4\).*one entry"
    ):
        saliency.GradCAM(network, "inner")(images())


def vit(read):
    inputs = keras.Input((8, 8, 3))
    tokens = L.Reshape((16, 6))(L.Conv2D(6, 2, 2)(inputs))
    x = L.LayerNormalization(name="before")(WithClassToken()(tokens))
    x = x + L.MultiHeadAttention(2, 3)(x, x)
    x = L.LayerNormalization(name="after")(x)
    return keras.Model(inputs, L.Dense(2)(read(x)))


@pytest.mark.long
def test_tokens_lie_on_the_grid_of_the_feature_map_they_come_from():
    same(vit(L.GlobalAveragePooling1D()), "after")
    network = vit(L.GlobalAveragePooling1D())
    method = saliency.GradCAM(network)
    assert method.terms(tf.constant(images()), tf.constant([0, 1])).shape == (2, 4, 4)


@pytest.mark.long
def test_after_the_last_attention_only_the_class_token_counts():
    """∂f/∂(patch tokens) is zero there, so that the map would be."""
    network = vit(lambda x: x[:, 0])
    same(network, "before")
    assert not np.any(saliency.GradCAM(network, "after")(images(), 1))


def test_learned_tokens_are_no_positions():
    inputs = keras.Input((8, 8, 3))
    maps = L.Conv2D(4, 1, name="maps")(inputs)
    weights = L.Softmax(1)(L.Reshape((64, 16))(L.Conv2D(16, 1)(maps)))
    learned = ops.einsum("bns,bnc->bsc", weights, L.Reshape((64, 4))(maps))
    learned = L.LayerNormalization(name="learned")(learned)
    network = keras.Model(inputs, L.Dense(2)(L.Flatten()(learned)))
    with pytest.raises(ArgumentError, match=r"layer: got 'learned', .*16, 4.*positions"):
        saliency.GradCAM(network, "learned")(images())
    assert saliency.GradCAM(network)(images(), 1).shape == (2, 8, 8)
    alone = keras.Sequential([keras.Input((8, 8, 3)), L.Reshape((48, 4)), L.Flatten(), L.Dense(2)])
    with pytest.raises(ModelError, match=r"no layer puts out feature maps"):
        saliency.GradCAM(alone)(images())


def test_a_layer_called_with_two_ranks():
    inputs = keras.Input((8, 8, 3))
    shared = L.Dense(3, name="shared")
    maps = shared(inputs)
    network = keras.Model(inputs, L.Dense(2)(shared(L.GlobalAveragePooling2D()(maps))))
    same(network, "shared")
    np.testing.assert_array_equal(
        saliency.GradCAM(network, "shared")(images()),
        saliency.GradCAM(network)(images()),
    )


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ["layercam", "gradcam_plus_plus", "scorecam"])
def test_sequential_models_built_by_add(name, tmp_path):
    layers = [L.Conv2D(3, 3), L.ReLU(), L.Conv2D(4, 3), L.Flatten(), L.Dense(3)]
    added = keras.Sequential()
    added.add(keras.Input((8, 8, 3)))
    for layer in layers:
        added.add(layer)
    added.save(tmp_path / "added.keras")
    x = inputs = keras.Input((8, 8, 3))
    for layer in layers:
        x = layer(x)
    expected = saliency.get(name)(keras.Model(inputs, x))(images(), 1)
    for network in (added, keras.models.load_model(tmp_path / "added.keras")):
        np.testing.assert_allclose(saliency.get(name)(network)(images(), 1), expected, rtol=1e-5)


def test_the_last_convolution_is_no_gate():
    inputs = keras.Input((8, 8, 3))
    maps = L.Conv2D(4, 3, name="maps")(inputs)
    gate = L.Conv2D(4, 1, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(maps))
    network = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Multiply()([maps, gate]))))
    np.testing.assert_array_equal(
        saliency.LayerCAM(network)(images(), 1), saliency.LayerCAM(network, "maps")(images(), 1)
    )
