"""`BiasNoise`: noise on the bias of any layer that has one, and nothing else changed."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfgrad
from tests.layers.test_replacements import penalty_error
from tfgrad.errors import ArgumentError
from tfgrad.internal import call_hooks
from tfgrad.layers import BiasNoise
from tfgrad.penalties import BiasGradientNorm, GradientNorm, ScoreMatching


class ChannelsFirst(L.Conv2D):
    """A channels-first convolution that every CPU computes: TensorFlow's own needs oneDNN."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, data_format="channels_first", **kwargs)

    def convolution_op(self, inputs, kernel):
        z = keras.ops.conv(
            keras.ops.moveaxis(inputs, 1, -1), kernel, padding="valid", data_format="channels_last"
        )
        return keras.ops.moveaxis(z, -1, 1)


LAYERS = {
    "dense": (lambda: L.Dense(3, activation="relu"), (4,)),
    "dense_positions": (lambda: L.Dense(3), (5, 4)),
    "einsum": (lambda: L.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d"), (5, 4)),
    "einsum_both": (lambda: L.EinsumDense("abc,cd->abd", (5, 3), bias_axes="bd"), (5, 4)),
    "conv1d": (lambda: L.Conv1D(3, 2, activation="tanh"), (6, 2)),
    "conv2d": (lambda: L.Conv2D(3, 2, strides=2, activation=L.LeakyReLU(0.1)), (6, 5, 2)),
    "conv2d_first": (lambda: ChannelsFirst(3, 2), (2, 6, 5)),
    "conv3d": (lambda: L.Conv3D(3, 2), (4, 4, 4, 1)),
    "transpose": (lambda: L.Conv2DTranspose(3, 2, activation="softplus"), (4, 4, 2)),
    "depthwise": (lambda: L.DepthwiseConv2D(2, depth_multiplier=2), (4, 4, 2)),
    "separable": (lambda: L.SeparableConv2D(3, 2, activation="relu"), (4, 4, 2)),
}
each_layer = pytest.mark.parametrize("kind", LAYERS)


def wrapped(kind, stddev=0.3, **more):
    make, shape = LAYERS[kind]
    layer = BiasNoise(make(), stddev, **more)
    layer.build((None, *shape))
    random = np.random.default_rng(0)
    for weight in layer.trainable_variables:
        weight.assign(random.normal(size=weight.shape))
    return layer, random.normal(size=(3, *shape)).astype("float32")


def pre_activation(layer, x):
    return type(layer).call(call_hooks.without_activation(layer), x).numpy()


def fixed_noise(monkeypatch, make):
    """Let every draw of a BiasNoise be make(shape) · its stddev."""

    def normal(shape, mean, stddev, dtype, seed):
        assert mean == 0.0
        return tf.cast(make(tuple(int(n) for n in shape)), dtype) * stddev

    monkeypatch.setattr(keras.random, "normal", normal)


# The layer


@each_layer
def test_in_inference_it_is_the_layer(kind):
    layer, x = wrapped(kind)
    np.testing.assert_array_equal(layer(x), layer.layer(x))
    np.testing.assert_array_equal(layer(x, training=False), layer.layer(x))
    assert layer.compute_output_shape(x.shape) == layer.layer.compute_output_shape(x.shape)
    assert not np.array_equal(layer(x, training=True), layer.layer(x))


@each_layer
def test_in_training_the_bias_is_noisy_at_every_position_before_the_activation(kind, monkeypatch):
    layer, x = wrapped(kind, stddev=0.5)
    inner = layer.layer
    before = inner.activation
    drawn = []

    def make(shape):
        drawn.append(np.random.default_rng(1).normal(size=shape))
        return drawn[-1]

    fixed_noise(monkeypatch, make)
    got = layer(x, training=True)
    z, bias = pre_activation(inner, x), inner.bias.numpy()
    if kind == "conv2d_first":
        bias = bias[:, None, None]
    expected = inner.activation(tf.constant(z + bias * (0.5 * drawn[0]), tf.float32))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert drawn[0].shape == z.shape
    assert inner.activation is before  # and the layer is as it was
    np.testing.assert_array_equal(layer(x), inner(x))


def test_the_noise_is_normal_and_independent():
    layer = BiasNoise(L.Conv2D(2, 1, kernel_initializer="zeros"), 0.3, seed=3)
    layer.build((None, 10, 10, 1))
    layer.layer.bias.assign([2.0, -5.0])
    draws = [layer(np.zeros((40, 10, 10, 1), "float32"), training=True).numpy() for _ in range(2)]
    phi = np.stack(draws) / [2.0, -5.0] - 1.0
    n = phi.size  # 16,000
    assert abs(phi.mean()) < 5 * 0.3 / np.sqrt(n)
    assert abs(phi.std() - 0.3) < 5 * 0.3 / np.sqrt(2 * n)
    assert abs(np.mean(phi**4) / 0.09**2 - 3.0) < 5 * np.sqrt(96 / n)  # Var φ⁴ = 96 σ⁸
    # No axis shares a draw: calls, examples, rows, columns, channels.
    for axis in range(phi.ndim):
        a, b = np.take(phi, 0, axis).ravel(), np.take(phi, 1, axis).ravel()
        assert abs(np.mean(a * b)) < 5 * 0.09 / np.sqrt(a.size), axis


def test_seeds():
    def draws(seed, times=2):
        layer, x = wrapped("conv2d", seed=seed)
        return [layer(x, training=True).numpy() for _ in range(times)]

    a, b = draws(7), draws(7)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a[0], a[1])
    assert not np.array_equal(a[0], draws(8)[0])
    assert not np.array_equal(draws(None)[0], draws(None)[0])


def test_no_noise_at_zero():
    layer, x = wrapped("conv2d", stddev=0)
    np.testing.assert_array_equal(layer(x, training=True), layer(x))


def test_a_half_trained_layer_can_be_wrapped():
    layer = L.Dense(3)
    layer.build((None, 4))
    noisy = BiasNoise(layer, 0.1)
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(noisy(x), layer(x))
    assert [w is v for w, v in zip(noisy.trainable_variables, layer.variables, strict=True)]


def noisy_network(channels=2, smooth=False, stddev=0.2):
    activation = "softplus" if smooth else "relu"
    return keras.Sequential(
        [
            keras.Input((4, 4, channels)),
            BiasNoise(L.Conv2D(2, 3, activation=activation, name="conv"), stddev, seed=1),
            L.Flatten(),
            BiasNoise(L.Dense(3, activation=activation, name="hidden"), stddev, seed=2),
            L.Dense(2, name="logits"),
        ]
    )


def randomised(network, seed=0, scale=1.0):
    random = np.random.default_rng(seed)
    for weight in network.trainable_variables:
        weight.assign(scale * random.normal(size=weight.shape))
    return network


# Keras hands its variables to np.array, which NumPy 2 would like to have a copy argument.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_saved_loaded_and_cloned(tmp_path):
    inputs = keras.Input((4, 4, 2))
    h = BiasNoise(L.Conv2D(2, 3, activation=tfgrad.layers.Softplus(10.0)), 0.2, seed=5)(inputs)
    outputs = BiasNoise(L.Dense(3), 0.1, seed=6)(L.Flatten()(h))
    network = randomised(keras.Model(inputs, outputs))
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype("float32")
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    for other in (loaded, copy):
        for mine, its in zip(network.layers[1:], other.layers[1:], strict=True):
            assert type(its) is type(mine)
            assert json.dumps(its.get_config()) == json.dumps(mine.get_config())
        np.testing.assert_array_equal(other(x), network(x))
    noisy = network(x, training=True)
    np.testing.assert_array_equal(loaded(x, training=True), noisy)
    assert not np.array_equal(noisy, network(x))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    layer = BiasNoise(L.Dense(4000, activation="relu", dtype=policy), 0.2, seed=0, dtype=policy)
    layer.build((None, 2))
    layer.layer.bias.assign(np.full(4000, 3.0))
    y = layer(np.zeros((10, 2), "float32"), training=True)
    assert y.dtype == layer.compute_dtype
    phi = tf.cast(y, tf.float64).numpy() / 3.0 - 1.0
    assert np.std(phi) == pytest.approx(0.2, rel=0.02)
    assert abs(np.mean(phi)) < 5 * 0.2 / np.sqrt(phi.size) + 1e-3


def test_the_losses_of_the_layer_are_added_once():
    layer, x = wrapped("dense", stddev=0.2)
    inner = L.Dense(3, activation="relu", activity_regularizer="l2", kernel_regularizer="l2")
    layer = BiasNoise(inner, 0.2)
    network = keras.Sequential([keras.Input((4,)), layer])
    for training in (True, False):
        output = network(x, training=training)
        activity = 0.01 * np.sum(np.square(output)) / len(x)
        kernel = 0.01 * np.sum(np.square(inner.kernel))
        assert sorted(map(float, network.losses)) == pytest.approx(sorted([activity, kernel]))


class Shift(L.Layer):
    """x + b: a bias, and no activation to fuse."""

    supports_masking = True

    def build(self, input_shape):
        self.bias = self.add_weight(shape=input_shape[-1:], initializer="ones")

    def call(self, x):
        return x + self.bias


def test_a_users_own_layer_with_a_bias(monkeypatch):
    layer = BiasNoise(Shift(), 0.5)
    fixed_noise(monkeypatch, lambda shape: np.reshape(np.arange(6.0), shape))
    layer.build((None, 2))
    x = np.full((3, 2), 10.0, "float32")
    np.testing.assert_allclose(layer(x, training=True), 11 + 0.5 * np.arange(6.0).reshape(3, 2))
    np.testing.assert_array_equal(layer(x), x + 1)


@pytest.mark.parametrize("layer", [lambda: L.Dense(3), Shift])
def test_masks_pass(layer):
    network = keras.Sequential([keras.Input((4, 2)), L.Masking(), BiasNoise(layer(), 0.2)])
    x = np.ones((1, 4, 2), "float32")
    x[:, 2:] = 0.0
    for training in (True, False):
        mask = network(x, training=training)._keras_mask
        np.testing.assert_array_equal(mask, [[True, True, False, False]])


def test_listeners_hear_the_inner_layer_say_what_the_outer_one_says():
    network = randomised(noisy_network())
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype("float32")
    outer = network.layers[0].name
    for training in (True, False):
        with call_hooks.recorded_outputs(["conv", outer]) as outputs:
            network(x, training=training)
        np.testing.assert_array_equal(outputs["conv"], outputs[outer])


def test_second_derivative_is_right(float64):
    for inner in (L.Conv2D(4, 2, activation="softplus"), L.Conv2D(4, 2)):
        assert penalty_error(BiasNoise(inner, 0.5, seed=0)) <= 1e-7


@pytest.mark.long
def test_it_trains_under_penalties_without_a_warning():
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 2)).astype("float32")
    y = np.arange(8) % 2
    network = noisy_network(smooth=True)
    penalties = [GradientNorm(0.1), ScoreMatching(0.01, sigma=0.1), BiasGradientNorm(1.0, "conv")]
    model = tfgrad.PenalizedModel(network, penalties)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    history = model.fit(x, y, batch_size=4, epochs=20, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert all(np.isfinite(v).all() for v in history.values())


def test_its_full_gradients_add_up():
    network = randomised(noisy_network())
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype("float32")
    decomposed = tfgrad.full_gradients(network, x)
    plain = keras.Sequential(
        [keras.Input((4, 4, 2))] + [getattr(layer, "layer", layer) for layer in network.layers]
    )
    expected = tfgrad.full_gradients(plain, x)
    np.testing.assert_allclose(decomposed.input_gradient, expected.input_gradient, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("conv", 0.1), r"layer: got str; expected a Keras layer with a bias"),
        (
            (L.Dense(3, use_bias=False, name="d"), 0.1),
            r"layer: got 'd' \(Dense\), which has no bias; expected",
        ),
        ((L.Dense(3), -0.1), r"stddev: got -0.1"),
        ((L.Dense(3), float("nan")), r"stddev: got nan"),
        ((L.Dense(3), "0.1"), r"stddev: got '0.1'; expected a finite number"),
        ((L.Dense(3), True), r"stddev: got True"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        BiasNoise(*arguments)


@pytest.mark.parametrize(
    "layer",
    [lambda: L.EinsumDense("ab,bc->ac", 3), lambda: L.ReLU(), lambda: L.LayerNormalization()],
)
def test_a_layer_that_turns_out_to_have_no_bias(layer):
    with pytest.raises(
        ArgumentError, match=r"layer: got .*, which has no bias; expected a layer with one; try"
    ):
        BiasNoise(layer(), 0.1).build((None, 4))
