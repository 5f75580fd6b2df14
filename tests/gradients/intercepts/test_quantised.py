"""Networks quantised to int8 and int4, and layers that are computed anew in the backward pass."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.variants import with_slow

L = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`:UserWarning")


class Block(L.Layer):
    """A transformer's block, with arithmetic before quantised layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm, self.attention = L.LayerNormalization(), L.MultiHeadAttention(2, 4)
        self.up, self.down = L.Dense(8, name="up"), L.Dense(6, name="down")

    def build(self, shape):
        self.norm.build(shape), self.attention.build(shape, shape)
        self.up.build(shape), self.down.build((*shape[:-1], 8))

    def call(self, x):
        h = self.norm(x)
        x = x + self.attention(h, h)
        h = self.up(x)
        return x + self.down(h * keras.ops.sigmoid(h))


class Windows(L.Layer):
    """Rows stacked on the batch axis around a quantised layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rows, self.last = L.Dense(6, "tanh", name="rows"), L.Dense(6, name="last")

    def build(self, shape):
        self.rows.build((None, shape[-1])), self.last.build(shape)

    def call(self, x):
        rows = keras.ops.reshape(x * x, (-1, x.shape[-1]))
        return self.last(keras.ops.reshape(self.rows(rows), (-1, *x.shape[1:])))


def _network(*layers, shape=(5, 6)):
    h = inputs = keras.Input(shape)
    for layer in layers:
        h = layer(h)
    model = keras.Model(inputs, L.Dense(3, name="head")(L.Flatten()(h)))
    random = np.random.default_rng(3)
    for v in model.weights:
        if v.path.endswith("bias"):
            v.assign(random.normal(size=v.shape))
    return model, random.normal(size=(2, *shape)).astype("float32")


NETWORKS = {
    "transformer": lambda: _network(
        L.Dense(6, "gelu"),
        Block(name="block"),
        L.EinsumDense("abc,cd->abd", (5, 6), bias_axes="d", activation="tanh"),
    ),
    "windows": lambda: _network(Windows(name="windows")),
    "convolution": lambda: _network(L.Conv1D(4, 3, activation="relu", name="conv")),
}


@pytest.mark.long
@pytest.mark.parametrize("mode", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", with_slow(["windows", "convolution"], ["transformer"]))
def test_a_quantised_network_decomposes(name, mode):
    model, x = NETWORKS[name]()
    model.quantize(mode)
    full = tfgrad.full_gradients(model, x, 1)
    assert np.max(full.completeness_error()) < 1e-5
    if name != "transformer":
        traced = tf.function(
            lambda x: tfgrad.full_gradients(model, x, 1).completeness_error(), autograph=False
        )
        assert np.max(traced(x)) < 1e-5
    else:
        kinds = {t.name: t.kind for t in full.intercepts}
        assert kinds["up"] == kinds["down"] == kinds["query"] == "residue"
        assert kinds["block/arithmetic"] == "arithmetic"  # apart from the rounding of `down`


def test_the_entry_of_a_quantised_layer_is_what_rounding_and_bias_add():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(3, name="head")(L.Dense(4, name="eighth")(inputs)))
    layer = model.get_layer("eighth")
    layer.bias.assign([0.3, -0.2, 0.1, 0.5])
    layer.quantize("int8")
    x = np.random.default_rng(0).normal(size=(2, 6)).astype("float32")
    full = tfgrad.full_gradients(model, x, 2)
    kernel = np.asarray(layer.kernel, "float32") / np.asarray(layer.kernel_scale)
    upper = np.asarray(model.get_layer("head").kernel)[:, 2]
    expected = upper * (np.asarray(layer(x)) - x @ kernel)
    np.testing.assert_allclose(full.bias_gradients["eighth"], expected, rtol=1e-4, atol=1e-6)


def test_a_network_in_simulated_quantisation():
    """As quantisation-aware training leaves it: the derivative is 1 within the bounds."""

    class Simulated(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = L.Dense(4, "tanh", name="dense")

        def call(self, x):
            h = tf.quantization.fake_quant_with_min_max_args(x, -1.0, 1.0, 4)
            h = self.dense(h)
            return tf.quantization.fake_quant_with_min_max_vars(h, -0.5, 0.5, 4) + 0.1

    model, x = _network(Simulated(), shape=(6,))

    def error(x):
        return tfgrad.full_gradients(model, x, 1).completeness_error()

    assert np.max(error(x)) < 1e-5
    assert np.max(tf.function(error, autograph=False)(tf.constant(x))) < 1e-5


@pytest.mark.parametrize("mode", ["activations", "full"])
def test_recomputed_layers_decompose_as_others(mode):
    def make():
        inputs = keras.Input((8, 8, 1))
        h = L.Conv2D(2, 3, activation="softplus", name="conv")(inputs)
        return keras.Model(inputs, L.Dense(3, name="head")(L.Flatten()(h)))

    plain = make()
    with keras.RematScope(mode):
        recomputed = make()
    recomputed.set_weights(plain.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    expected = tfgrad.full_gradients(plain, x, 0)
    found = tfgrad.full_gradients(recomputed, x, 0)
    assert [t.kind for t in found.intercepts] == [t.kind for t in expected.intercepts]
    for name, value in expected.bias_gradients.items():
        np.testing.assert_allclose(found.bias_gradients[name], value, rtol=1e-5, atol=1e-7)
