"""The score of one class where other classes are masked with −∞ or have no derivative."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.finite_differences import numerical_gradient, worst_relative_error
from tfgrad import losses, saliency
from tfgrad.errors import ModelError
from tfgrad.gradients import class_scores
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.models.output_meaning import BINARY, EXCLUSIVE, INDEPENDENT

L, ops = keras.layers, keras.ops
INFINITY = float("inf")
CHOSEN = tf.constant([0, 1])


class Hidden(L.Layer):
    """Logits whose last class is masked."""

    def call(self, x):
        return x + tf.constant([0.0, 0.0, -INFINITY], x.dtype)


def rooted(x):
    """Logits whose last class is a root at 0, which has no derivative."""
    return ops.concatenate([x[:, :2], ops.sqrt(0 * x[:, 2:])], -1)


def network(last=None, dtype="float32"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 1), dtype=dtype)
    features = L.Conv2D(2, 3, activation="silu", dtype=dtype)(inputs)
    logits = L.Dense(3, dtype=dtype)(L.Flatten(dtype=dtype)(features))
    return keras.Model(inputs, logits if last is None else last(logits))


def images(dtype="float32"):
    return np.random.default_rng(0).uniform(size=(2, 4, 4, 1)).astype(dtype)


@pytest.mark.parametrize("other", [-INFINITY, INFINITY, float("nan")])
@pytest.mark.parametrize("compiled", [False, True])
def test_other_classes_do_not_count(other, compiled):
    logits = tf.Variable([[1.0, other, 2.0], [other, 3.0, 4.0]], dtype=tf.float64)

    @tf.function(jit_compile=compiled)
    def score_and_gradient():
        with tf.GradientTape() as tape:
            score = class_scores.logit(logits, CHOSEN, EXCLUSIVE)
        return score, tape.gradient(score, logits)

    score, gradient = score_and_gradient()
    np.testing.assert_array_equal(score, [1, 3])
    np.testing.assert_array_equal(gradient, [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(class_scores.select(logits, CHOSEN), [1, 3])


def test_the_logit_of_each_of_two_classes():
    rows = tf.reshape(tf.range(6.0), [2, 1, 3])
    np.testing.assert_array_equal(
        class_scores.logit(rows, CHOSEN, BINARY), [[0, -1, -2], [3, 4, 5]]
    )


@pytest.mark.parametrize("meaning", [EXCLUSIVE, INDEPENDENT])
def test_probabilities_beside_a_masked_class(meaning):
    logits = np.array([[1.0, 0.5, -INFINITY], [0.2, 3.0, -INFINITY]])
    left = tf.constant(logits[:, :2])
    expected = class_scores.log_probability(left, CHOSEN, meaning)
    variable = tf.Variable(logits)
    with tf.GradientTape(persistent=True) as tape:
        found = class_scores.log_probability(variable, CHOSEN, meaning)
        slopes = tape.gradient(found, variable)
    np.testing.assert_allclose(found, expected)
    assert np.isfinite(slopes).all() and np.isfinite(tape.gradient(slopes, variable)).all()
    probabilities = class_scores.probabilities(variable, meaning)
    np.testing.assert_allclose(probabilities[:, :2], class_scores.probabilities(left, meaning))
    np.testing.assert_array_equal(probabilities[:, 2], [0, 0])


@pytest.mark.long
@pytest.mark.parametrize("name", ["input_gradient", "fullgrad", "gradcam"])
def test_maps_are_those_of_the_network_without_a_mask(name):
    masked, plain = (saliency.get(name)(network(last)) for last in (Hidden(), None))
    for target in (0, [1, 0]):
        expected = plain.explain(images(), target)
        for key, values in masked.explain(images(), target).items():
            np.testing.assert_allclose(values, expected[key], rtol=1e-5, atol=1e-5)


def test_the_decomposition():
    full, plain = (tfgrad.full_gradients(network(last), images(), 0) for last in (Hidden(), None))
    np.testing.assert_allclose(full.score, plain.score, rtol=1e-6)
    assert np.max(full.completeness_error()) < 1e-6
    with pytest.raises(ModelError, match=r"got the logit -inf for example 0.*expected finite"):
        tfgrad.full_gradients(network(Hidden()), images(), 2)


@pytest.mark.parametrize("last", [Hidden(), rooted])
def test_a_row_of_the_jacobian(last):
    probe = Probe(network(last), images(), needs=Needs(jacobian=True))
    plain = Probe(network(), images()).input_gradient(CHOSEN)
    np.testing.assert_allclose(probe.input_gradient(CHOSEN), plain, rtol=1e-5, atol=1e-7)


@pytest.mark.sample(2)
@pytest.mark.parametrize("jacobian", [False, True])
def test_a_penalty_on_the_slope_of_another_class(jacobian):
    model, x = network(Hidden(dtype="float64"), "float64"), images("float64")
    kernel = model.layers[1].kernel

    def value():
        probe = Probe(model, x, needs=Needs(order=2, jacobian=jacobian))
        return tf.reduce_sum(losses.squared_norm(probe.input_gradient(CHOSEN)))

    with tf.GradientTape() as tape:
        penalty = value()
    exact = tape.gradient(penalty, kernel.value)
    assert worst_relative_error([exact], [numerical_gradient(value, kernel)]) < 1e-6


def test_log_odds_against_a_class():
    logits = tf.constant([[1.0, -0.5, 2.0], [0.3, 0.2, -1.0]], tf.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    own = p[[0, 1], [0, 1]]
    found = class_scores.log_odds_against(logits, CHOSEN, EXCLUSIVE)
    np.testing.assert_allclose(found, np.log((1 - own) / own), rtol=1e-12)
    sigmoids = class_scores.log_odds_against(logits, CHOSEN, INDEPENDENT)
    np.testing.assert_allclose(sigmoids, [-1.0, -0.2])
    np.testing.assert_allclose(
        class_scores.log_odds_against(logits[:, :1], CHOSEN, BINARY), [1.0, -0.3]
    )


def test_log_odds_have_a_gradient_where_the_cross_entropy_has_none():
    """Its direction is that of the cross-entropy, taken in float64."""
    logits = tf.Variable([[200.0, -3.0, 40.0]])

    def slope(score, values):
        with tf.GradientTape() as tape:
            value = score(values, tf.constant([0]), EXCLUSIVE)
        return tape.gradient(value, values).numpy()

    assert not slope(class_scores.log_probability, logits).any()
    exact = -slope(class_scores.log_probability, tf.Variable(tf.cast(logits, tf.float64)))
    found = slope(class_scores.log_odds_against, logits)
    np.testing.assert_allclose(found, [[-1, np.exp(-43.0), 1 - np.exp(-43.0)]], rtol=1e-5)
    np.testing.assert_allclose(exact[0, 1] / exact[0, 2], found[0, 1] / found[0, 2], rtol=1e-5)
