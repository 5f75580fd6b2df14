"""Noise and the penalties that stand for it: Props. 1, 2, 10 and Eq. 4.1, and what they leave out.

Inside one linear region of a ReLU network the identities are exact. There the expectation is taken
over sigma points, ±σ√D e_i with equal weights, which have the noise's mean and covariance and hence
its expectation of any quadratic; or over draws, with a tolerance of five standard errors. On a
smooth network it is taken by Gauss-Hermite quadrature, and what is left is measured.
"""

import keras
import numpy as np
import pytest
from keras import layers as L

from tests.layers.test_bias_noise import fixed_noise, noisy_network, randomised
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal import call_hooks
from tfgrad.penalties import ActivationMatching, BiasGradientNorm, GradientNorm, JacobianMatching

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
        for layer in call_hooks.flatten(network)
        if getattr(layer, "activation", None) is keras.activations.relu
    ]
    with call_hooks.recorded_outputs(names) as outputs:
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
