"""Noise, baselines and samplers leave the steps alone that a network masks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.variants import with_slow
from tfgrad import saliency

L = keras.layers


def network(value=0.0):
    """A network of padded sequences, whose pooling divides by the number of visible steps."""
    inputs = keras.Input((None, 3))
    features = L.Dense(5, activation="softplus")(L.Masking(value)(inputs))
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(features)))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def padded(value=0.0):
    """Two sequences, of which the first has two steps."""
    x = np.random.default_rng(1).normal(size=(2, 6, 3)).astype("float32")
    x[0, 2:] = value
    return x


@pytest.mark.parametrize(
    ("name", "value"),
    with_slow(
        [("smoothgrad", -5.0), ("smoothgrad_squared", 0.0), ("integrated_gradients", -5.0)],
        [("smoothgrad", 0.0), ("smoothgrad_squared", -5.0), ("integrated_gradients", 0.0)],
    ),
)
def test_padding_gets_zero_and_changes_nothing(name, value):
    method = saliency.get(name)(network(value))
    x = padded(value)
    maps = np.asarray(method(x, 1))
    assert not maps[0, 2:].any() and maps[0, :2].all()
    if name == "integrated_gradients":  # whose numbers do not depend on the length
        np.testing.assert_allclose(maps[0, :2], method(x[:1, :2], 1)[0], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("value", [-5.0, 0.0])
def test_integrated_gradients_converge_beside_padding(value):
    method = saliency.IntegratedGradients(network(value), steps=300)
    found = method.explain(tf.constant(padded(value)), 1)
    np.testing.assert_allclose(found["convergence_gap"], [0, 0], atol=1e-4)


@pytest.mark.sample(2)
@pytest.mark.parametrize("estimator", ["taylor", "antithetic"])
def test_traces_are_those_of_visible_steps(estimator):
    penalty = tfgrad.penalties.ScoreMatching(
        1.0, estimator=estimator, samples=50, sigma=0.05, stability=0.0, target=1
    )
    exact = tfgrad.penalties.ScoreMatching(1.0, estimator="exact", stability=0.0, target=1)
    model, x = network(), padded()
    fixed = keras.Input((6, 3))
    model = keras.Model(fixed, model(fixed))
    expected = exact.per_example(model, x)
    tolerance = {"taylor": 40.0, "antithetic": 0.5}[estimator]
    np.testing.assert_allclose(penalty.per_example(model, x), expected, atol=tolerance)


def test_robustness_and_samplers():
    model, x = network(-1.0), padded(-1.0)
    y = np.argmax(model(x), -1)
    found = tfgrad.evaluation.noise_robustness(model, [(x, y)], (0.0, 1e-6))
    assert found.values == (1.0, 1.0)
    samples = tfgrad.sampling.langevin(model, 1, x, steps=3, step_size=0.1)
    np.testing.assert_array_equal(samples.images[0, 2:], x[0, 2:])
    assert (samples.images[0, :2] != x[0, :2]).all()
