"""The estimators of the Hessian trace: unbiased, with the stated variance, and seeded."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.penalties.test_penalties import LABELS, SIGMA, images, network
from tfgrad import PenalizedModel, layers
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.penalties import ESTIMATORS, ScoreMatching
from tfgrad.penalties.score_matching import trace

L = keras.layers


class Quadratic(L.Layer):
    """f_k(x) = xᵀ A_k x + b_k · x, so ∇f_k = (A_k + A_kᵀ) x + b_k and H_k = A_k + A_kᵀ."""

    def __init__(self, a, b, **kwargs):
        super().__init__(**kwargs)
        self.a, self.b = a, b

    def call(self, x):
        return tf.einsum("bi,kij,bj->bk", x, self.a, x) + tf.einsum("ki,bi->bk", self.b, x)


A = np.array([[[2.0, 1.0, 0.0], [0.0, -1.0, 0.5], [1.0, 0.0, 3.0]], np.eye(3)])


B = np.array([[8.0, -6.0, 3.0], [0.0, 1.0, 0.0]])


H = A[0] + A[0].T  # trace 8


X = np.array([0.5, -1.0, 2.0])


N = 4000


def draws_of_the_trace(estimator, samples=1, sigma=0.1):
    """N independent draws: every example of a batch has noise of its own."""
    net = keras.Sequential([keras.Input((3,)), Quadratic(A, B)])
    probe = Probe(net, np.tile(X, (N, 1)), needs=Needs(order=2))
    return trace(probe, 0, estimator, sigma, samples, seed=1).numpy()


def variance(estimator, samples, sigma):
    slope = H @ X + B[0]
    squares = np.sum(H**2)
    if estimator == "taylor":
        return (4 * slope @ slope / sigma**2 + 2 * squares) / samples
    if estimator == "hutchinson_rademacher":
        return 2 * (squares - np.sum(np.diag(H) ** 2)) / samples
    return 2 * squares / samples


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("estimator", ESTIMATORS[:4])
def test_estimators_are_unbiased_with_the_stated_variance(float64, estimator, samples):
    drawn = draws_of_the_trace(estimator, samples)
    expected = variance(estimator, samples, 0.1)
    assert abs(drawn.mean() - np.trace(H)) < 4 * np.sqrt(expected / N)
    # A χ² variable, the worst case here, has a kurtosis of 15: √(14 / N) = 6 % is the standard
    # error of the variance.
    np.testing.assert_allclose(drawn.var(), expected, rtol=4 * np.sqrt(14 / N))


def test_the_exact_trace(float64):
    np.testing.assert_allclose(draws_of_the_trace("exact"), np.full(N, 8.0), rtol=1e-12)


def test_antithetic_noise_does_not_see_the_gradient(float64):
    """The one-sided estimator carries 4‖∇f‖²/(Nσ²) beside 2‖H‖²_F/N, here 10⁵ times as much."""
    slope = H @ X + B[0]
    one_sided = draws_of_the_trace("taylor", sigma=0.01).var()
    np.testing.assert_allclose(one_sided, 4 * slope @ slope / 1e-4, rtol=4 * np.sqrt(2 / N))
    assert draws_of_the_trace("antithetic", sigma=0.01).var() < 1e-4 * one_sided


def test_draws_follow_seed_and_step(float64):
    net, x = network(), images()
    value = {
        (seed, step): ScoreMatching(sigma=SIGMA, seed=seed).per_example(net, x, LABELS, seed=step)
        for seed in (0, 1)
        for step in (0, 1)
    }
    assert len({float(v[0]) for v in value.values()}) == 4
    again = ScoreMatching(sigma=SIGMA, seed=1).per_example(net, x, LABELS, seed=1)
    np.testing.assert_array_equal(again, value[1, 1])


@pytest.mark.long
def test_running_statistics_are_those_of_before_the_step():
    """In `fit` the clean and the noisy logits come from one state of the batch norm."""

    def trace_in_training(estimator, samples=1):
        keras.utils.set_random_seed(0)
        body = [L.Conv2D(3, 2), layers.BatchNormalization(momentum=0.9), L.Activation("softplus")]
        net = keras.Sequential([keras.Input((3, 3, 1)), *body, L.Flatten(), L.Dense(3)])
        penalty = ScoreMatching(
            1e-6, samples=samples, stability=0.0, estimator=estimator, statistics="running"
        )
        model = PenalizedModel(net, [penalty])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e-3), loss)
        x = np.random.default_rng(0).uniform(size=(8, 3, 3, 1)).astype("float32")
        return model.train_on_batch(x, np.arange(8) % 3, return_dict=True)["score_matching"]

    assert trace_in_training("antithetic", 4) == pytest.approx(trace_in_training("exact"), abs=0.5)
