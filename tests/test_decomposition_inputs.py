"""Decompositions of networks with integer inputs, nested inputs and several float types."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.finite_differences import numerical_gradient, worst_relative_error

L = keras.layers


def _two_inputs(structure):
    image, tokens = keras.Input((4,), name="image"), keras.Input((3,), dtype="int32", name="tokens")
    embedded = L.Flatten()(L.Embedding(5, 2, name="embedding")(tokens))
    h = L.Dense(3, "tanh")(L.Concatenate()([image, embedded]))
    return keras.Model(structure(image, tokens), L.Dense(2)(h))


STRUCTURES = {
    "dict": (lambda image, tokens: {"tokens": tokens, "image": image}, {"image": (2, 4)}),
    "list": (lambda image, tokens: [tokens, image], [(2, 4)]),
    "nested": (
        lambda image, tokens: {"text": {"tokens": tokens}, "pixels": [image]},
        {"pixels": [(2, 4)]},
    ),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_gradients_keep_the_structure_without_integer_inputs(name):
    structure, expected = STRUCTURES[name]
    model = _two_inputs(structure)
    x = structure(np.ones((2, 4), "float32"), np.array([[1, 2, 3], [0, 1, 4]]))
    full = tfgrad.full_gradients(model, x, 0)
    found = keras.tree.map_structure(lambda t: tuple(t.shape), full.input_gradient)
    assert found == expected
    assert keras.tree.map_structure(lambda t: tuple(t.shape), full.input_term) == expected
    assert np.max(full.completeness_error()) < 1e-5
    penalty = tfgrad.penalties.GradientNorm(1.0, target=0)
    (gradient,) = tf.nest.flatten(full.input_gradient)
    expected = tf.reduce_sum(gradient**2, axis=1)
    np.testing.assert_allclose(penalty.per_example(model, x, [0, 0]), expected, rtol=1e-5)


def _of_tokens():
    return keras.Sequential(
        [keras.Input((3,), dtype="int32"), L.Embedding(5, 2, name="table"), L.Flatten(), L.Dense(2)]
    )


def _of_bytes():
    inputs = keras.Input((4, 4, 1), dtype="uint8")
    h = L.Flatten()(L.Conv2D(2, 3)(L.Rescaling(1 / 255, name="to_float")(inputs)))
    return keras.Model(inputs, L.Dense(2)(h))


@pytest.mark.parametrize(
    ("make", "x", "layer"),
    [
        (_of_tokens, np.array([[1, 2, 3]]), "table"),
        (_of_bytes, np.full((1, 4, 4, 1), 7, "uint8"), "to_float"),
    ],
)
def test_integers_are_differentiated_where_they_become_floats(make, x, layer):
    network = make()
    rest = keras.Model(network.get_layer(layer).output, network.outputs[0])
    between = keras.Model(network.inputs[0], network.get_layer(layer).output)(x)
    expected = tfgrad.full_gradients(rest, between)
    for at in (None, layer, [layer]):
        full = tfgrad.full_gradients(network, x, at=at)
        np.testing.assert_allclose(full.score, np.max(network(x), -1), rtol=1e-5)
        np.testing.assert_allclose(full.x, between)
        np.testing.assert_allclose(full.input_gradient, expected.input_gradient, rtol=1e-5)
        assert np.max(full.completeness_error()) < 1e-5


class Mixed(L.Layer):
    """Layers of three float types in one call, without automatic casts."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.wide = L.Conv2D(3, 3, activation="tanh", dtype="float64", name="wide")
        self.plain = L.Conv2D(3, 3, name="plain")

    def call(self, x):
        return keras.ops.cast(self.wide(x), "float32") * self.plain(x)


def _mixed(kind):
    inputs = keras.Input((6, 6, 2))
    wide = L.Conv2D(3, 3, activation="softplus", dtype="float64", name="conv")
    if kind == "wide":
        h, last = wide(inputs), "float64"
    elif kind == "one after the other":
        h, last = L.Conv2D(3, 1, activation="silu")(wide(inputs)), "float32"
    elif kind == "side by side":
        h, last = L.Add()([wide(inputs), L.Conv2D(3, 3, activation="silu")(inputs)]), "float32"
    elif kind == "bare sum":
        h, last = wide(inputs) + L.Conv2D(3, 3)(inputs), "float64"
    else:
        h, last = Mixed()(inputs), "float64"
    return keras.Model(inputs, L.Dense(2, dtype=last)(L.Flatten(dtype=last)(h)))


MIXED = [
    *("one after the other", "without casts"),
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("wide", "side by side", "bare sum")),
]


@pytest.mark.long
@pytest.mark.parametrize("kind", MIXED)
def test_layers_of_several_float_types(kind):
    model = _mixed(kind)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype("float32")
    full = tfgrad.full_gradients(model, x, 0)
    assert np.max(full.completeness_error()) < 1e-5
    maps = tfgrad.saliency.FullGrad(model)(x, 0)
    assert maps.dtype == tf.float32 and np.isfinite(maps).all()


@pytest.mark.slow
def test_maps_of_mixed_float_types_are_those_of_float64(float64):
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 2))
    wide = _mixed("one after the other")
    keras.config.set_floatx("float32")
    mixed = _mixed("one after the other")
    mixed.set_weights(wide.get_weights())
    expected = tfgrad.saliency.FullGrad(wide)(x, 0)
    np.testing.assert_allclose(
        tfgrad.saliency.FullGrad(mixed)(x.astype("float32"), 0), expected, rtol=1e-3, atol=1e-3
    )


def test_a_penalty_on_biases_of_float64_layers():
    model = _mixed("wide")
    conv, x = model.get_layer("conv"), np.random.default_rng(0).normal(size=(2, 6, 6, 2))
    conv.bias.assign([0.3, -0.2, 0.1])
    penalty = tfgrad.penalties.BiasGradientNorm(1.0, ["conv"])

    def value():
        return tf.reduce_sum(penalty.per_example(model, x.astype("float32"), [0, 1]))

    with tf.GradientTape() as tape:
        loss = value()
    exact = tape.gradient(loss, [conv.bias.value])
    assert worst_relative_error(exact, [numerical_gradient(value, conv.bias)]) < 1e-3
