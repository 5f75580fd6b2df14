"""Noise and the penalties that stand for it: Props. 1, 2, 10 and Eq. 4.1, and what they leave out.

Inside one linear region of a ReLU network the identities are exact. There the expectation is taken
over sigma points, ±σ√D e_i with equal weights, which have the noise's mean and covariance and hence
its expectation of any quadratic; or over draws, with a tolerance of five standard errors. On a
smooth network it is taken by Gauss-Hermite quadrature, and what is left is measured.
"""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfgrad
from tests.test_layers import penalty_error
from tfgrad import calls
from tfgrad.errors import ArgumentError
from tfgrad.layers import BiasNoise
from tfgrad.penalties import (
    ActivationMatching,
    BiasGradientNorm,
    GradientNorm,
    JacobianMatching,
    ScoreMatching,
)
from tfgrad.probe import Needs, Probe

LAYERS = {
    "dense": (lambda: L.Dense(3, activation="relu"), (4,)),
    "dense_positions": (lambda: L.Dense(3), (5, 4)),
    "einsum": (lambda: L.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d"), (5, 4)),
    "einsum_both": (lambda: L.EinsumDense("abc,cd->abd", (5, 3), bias_axes="bd"), (5, 4)),
    "conv1d": (lambda: L.Conv1D(3, 2, activation="tanh"), (6, 2)),
    "conv2d": (lambda: L.Conv2D(3, 2, strides=2, activation=L.LeakyReLU(0.1)), (6, 5, 2)),
    "conv2d_first": (lambda: L.Conv2D(3, 2, data_format="channels_first"), (2, 6, 5)),
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
    return type(layer).call(calls.without_activation(layer), x).numpy()


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
        with calls.recorded(["conv", outer]) as outputs:
            network(x, training=training)
        np.testing.assert_array_equal(outputs["conv"], outputs[outer])


def test_second_derivative_is_right(float64):
    for inner in (L.Conv2D(4, 2, activation="softplus"), L.Conv2D(4, 2)):
        assert penalty_error(BiasNoise(inner, 0.5, seed=0)) <= 1e-7


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
        ((L.Dense(3, use_bias=False, name="d"), 0.1), r"layer: 'd' \(Dense\) has no bias"),
        ((L.Dense(3), -0.1), r"stddev: got -0.1"),
        ((L.Dense(3), float("nan")), r"stddev: got nan"),
        ((L.Dense(3), "0.1"), r"stddev: got '0.1'; expected a number"),
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
    with pytest.raises(ArgumentError, match=r"layer: .* has no bias to put noise on"):
        BiasNoise(layer(), 0.1).build((None, 4))


# Exactly, in one linear region


SIGMA = 0.02


def relu_network(seed, classes=3, pixels=6):
    network = keras.Sequential(
        [
            keras.Input((pixels,)),
            L.Dense(7, activation="relu", name="first"),
            L.Dense(5, activation="relu", name="second"),
            L.Dense(classes),
        ]
    )
    return randomised(network, seed)


def pattern(network, x, training=False):
    """Which units are on, [batch, units]."""
    names = [
        layer.name
        for layer in calls.flatten(network)
        if getattr(layer, "activation", None) is keras.activations.relu
    ]
    with calls.recorded(names) as outputs:
        network(x, training=training)
    return np.concatenate([np.reshape(o, (len(x), -1)) > 0 for o in outputs.values()], axis=1)


def assert_one_region(network, points, clean, training=False):
    """No unit of a ReLU network changes sign between the clean point and any of the points.

    The region of one pattern is convex, so it holds what lies between them as well.
    """
    on = pattern(network, clean)[:1]
    assert 0 < on.mean() < 1
    np.testing.assert_array_equal(pattern(network, points, training) ^ on, False)


def sigma_points(size, sigma):
    """±σ√D e_i, [2D, D]: mean 0, covariance σ² I."""
    points = sigma * np.sqrt(size) * np.concatenate([np.eye(size), -np.eye(size)])
    np.testing.assert_allclose(points.T @ points / len(points), sigma**2 * np.eye(size), atol=1e-15)
    return points


def squared_error(y, network, x):
    return np.sum((y - network(x).numpy()) ** 2, axis=-1)


def test_proposition_1_is_exact_in_a_linear_region(float64):
    student, teacher = relu_network(0), relu_network(1)
    x = np.random.default_rng(2).normal(size=(1, 6))
    noisy = x + sigma_points(6, SIGMA)
    for network in (student, teacher):
        assert_one_region(network, noisy, x)
    expected = np.mean(squared_error(teacher(noisy).numpy(), student, noisy))
    activations = ActivationMatching().per_example(student, x, teacher=teacher).numpy()[0]
    jacobians = JacobianMatching(target="all").per_example(student, x, teacher=teacher).numpy()[0]
    assert SIGMA**2 * jacobians > 1e-4 * activations  # it is there to be missed
    assert activations + SIGMA**2 * jacobians == pytest.approx(expected, rel=1e-12)


def test_proposition_2_is_exact_in_a_linear_region(float64):
    network, y = relu_network(0), np.array([0.0, 1.0, 0.0])
    x = np.random.default_rng(2).normal(size=(1, 6))
    noisy = x + sigma_points(6, SIGMA)
    assert_one_region(network, noisy, x)
    expected = np.mean(squared_error(y, network, noisy))
    clean = squared_error(y, network, x)[0]
    penalty = GradientNorm(target="all").per_example(network, x).numpy()[0]
    assert SIGMA**2 * penalty > 1e-4 * clean
    assert clean + SIGMA**2 * penalty == pytest.approx(expected, rel=1e-12)


def bias_case(stddev):
    """A network with noisy biases, one image, an answer, and BiasGradientNorm's layers."""
    network = randomised(noisy_network(channels=1, stddev=stddev), seed=4)
    network.layers[0].layer.bias.assign([1.5, -0.5])
    return network, np.random.default_rng(1).normal(size=(1, 4, 4, 1)), 0.7


@pytest.mark.parametrize("name", ["conv", "hidden"])
def test_proposition_10_is_exact_in_a_linear_region(float64, monkeypatch, name):
    """With sigma points for the noise of one layer, none for the other's."""
    network, x, y = bias_case(SIGMA)
    penalty = BiasGradientNorm(layers=[name], target=1).per_example(network, x).numpy()[0]
    size = {"conv": 2 * 2 * 2, "hidden": 3}[name]

    def noise(shape):
        own = np.prod(shape[1:]) == size
        return np.reshape(sigma_points(size, 1.0), shape) if own else np.zeros(shape)

    fixed_noise(monkeypatch, noise)
    copies = np.repeat(x, 2 * size, axis=0)
    assert_one_region(network, copies, x, training=True)
    expected = np.mean((y - network(copies, training=True)[:, 1]) ** 2)
    clean = float((y - network(x)[0, 1]) ** 2)
    assert SIGMA**2 * penalty > 1e-6 * clean
    assert clean + SIGMA**2 * penalty == pytest.approx(expected, rel=1e-12)


# By drawing


DRAWS = 200_000


def assert_mean(samples, expected, without):
    """The samples' mean is what is expected, and not what it would be without the penalty."""
    error = samples.std() / np.sqrt(len(samples))
    assert abs(samples.mean() - expected) < 5 * error
    assert abs(samples.mean() - without) > 20 * error


def test_proposition_10_by_drawing(float64):
    network, x, y = bias_case(SIGMA)
    penalty = BiasGradientNorm(layers=["conv", "hidden"], target=1).per_example(network, x)
    y = float(network(x)[0, 1]) - 0.01  # a small clean error, beside which the noise is seen
    copies = np.repeat(x, DRAWS, axis=0)
    states = [v.numpy() for v in network.non_trainable_variables]
    assert_one_region(network, copies, x, training=True)
    for variable, value in zip(network.non_trainable_variables, states, strict=True):
        variable.assign(value)  # the draws that were looked at
    samples = (y - network(copies, training=True).numpy()[:, 1]) ** 2
    assert_mean(samples, 0.01**2 + SIGMA**2 * float(penalty[0]), without=0.01**2)


def test_equation_4_1_by_drawing(float64):
    rate = SIGMA**2 / (1 + SIGMA**2)  # what BiasNoise's docstring says
    network = relu_network(0)
    dropout = L.GaussianDropout(rate, seed=3, name="noise")
    network = keras.Sequential(
        [keras.Input((6,)), *network.layers[:1], dropout, *network.layers[1:]]
    )
    x = np.random.default_rng(2).normal(size=(1, 6))
    probe = Probe(network, x, needs=Needs(layers=("noise",)))
    z, slope = probe.layer_outputs["noise"], probe.layer_gradients(1)["noise"]
    penalty = np.sum((z * slope).numpy() ** 2)
    y = float(network(x)[0, 1]) - 0.01
    copies = np.repeat(x, DRAWS, axis=0)
    states = [v.numpy() for v in network.non_trainable_variables]
    assert_one_region(network, copies, x, training=True)
    for variable, value in zip(network.non_trainable_variables, states, strict=True):
        variable.assign(value)
    samples = (y - network(copies, training=True).numpy()[:, 1]) ** 2
    assert_mean(samples, 0.01**2 + SIGMA**2 * penalty, without=0.01**2)


# What is left where the network is smooth


def quadrature(dimensions, sigma):
    """Points and weights that integrate polynomials of degree 17 against N(0, σ² I) exactly."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    axes = np.meshgrid(*[sigma * nodes] * dimensions, indexing="ij")
    product = np.ones(())
    for _ in range(dimensions):
        product = np.multiply.outer(product, weights / weights.sum())
    return np.stack([a.ravel() for a in axes], axis=1), product.ravel()


def smooth_network(seed, activation):
    network = keras.Sequential(
        [
            keras.Input((2,)),
            L.Dense(6, activation=activation),
            L.Dense(5, activation=activation),
            L.Dense(3),
        ]
    )
    return randomised(network, seed)


def traces(network, x):
    """tr ∇²S^k of every class, exactly."""
    probe = Probe(network, x, needs=Needs(order=2))
    return np.array([probe.hessian_trace(k).numpy()[0] for k in range(3)])


@pytest.mark.parametrize("activation", ["softplus", "tanh"])
@pytest.mark.parametrize("proposition", [1, 2])
def test_on_a_smooth_network_a_trace_is_left(float64, proposition, activation):
    """E = clean + σ² penalty + σ² Σ_k (S^k − y^k)(tr ∇²S^k − tr ∇²y^k) + O(σ⁴), y = T or constant.

    So "O(σ⁴)" in Props. 1 and 2 is not what is left: there is a term of order σ², as large as the
    penalty's own. It vanishes where the student fits.
    """
    student, teacher = smooth_network(0, activation), smooth_network(1, activation)
    x = np.random.default_rng(3).normal(size=(1, 2))
    if proposition == 1:
        answer = lambda points: teacher(points).numpy()  # noqa: E731
        bends = traces(teacher, x)
        penalty = JacobianMatching(target="all").per_example(student, x, teacher=teacher)
    else:
        answer = lambda points: np.array([[0.0, 1.0, 0.0]])  # noqa: E731
        bends = np.zeros(3)
        penalty = GradientNorm(target="all").per_example(student, x)
    penalty = penalty.numpy()[0]
    clean = squared_error(answer(x), student, x)[0]
    left_by_theory = np.sum((student(x).numpy() - answer(x))[0] * (traces(student, x) - bends))
    assert abs(left_by_theory) > 0.01 * penalty

    def left(sigma):
        offsets, weights = quadrature(2, sigma)
        points = x + offsets
        return np.sum(weights * squared_error(answer(points), student, points)) - (
            clean + sigma**2 * penalty
        )

    rests = [left(s) - s**2 * left_by_theory for s in (0.02, 0.01, 0.005)]
    assert left(0.005) / 0.005**2 == pytest.approx(left_by_theory, rel=0.05)
    # Halving σ divides the rest by 16, so it is of order σ⁴; without the trace it would be 4.
    assert rests[0] / rests[1] == pytest.approx(16, rel=0.05)
    assert rests[1] / rests[2] == pytest.approx(16, rel=0.05)
    assert left(0.01) / left(0.005) == pytest.approx(4, rel=0.2)
