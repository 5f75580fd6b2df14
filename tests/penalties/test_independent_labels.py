"""Penalties on independent labels, against one network of one logit for each label."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.one_logit import SHAPE
from tfgrad.errors import ArgumentError
from tfgrad.penalties import GradientNorm, JacobianMatching

L = keras.layers
X = np.random.default_rng(0).normal(size=(4, *SHAPE))
MULTI_HOT = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 1, 0]], "float64")


@pytest.fixture(scope="module", autouse=True)
def float64():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def labelled(seed):
    """(a network of three labels, its networks of one label each)."""
    random = keras.initializers.RandomNormal
    x = keras.Input(SHAPE)
    z = L.Flatten()(
        L.Conv2D(3, 3, activation="softplus", kernel_initializer=random(0, 0.4, seed))(x)
    )
    f = L.Dense(3, kernel_initializer=random(0, 0.4, seed + 1))(z)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    found = [keras.Model(x, f), *(keras.Model(x, f[:, k : k + 1]) for k in range(3))]
    for one in found:
        one.compile("sgd", loss)
    return found[0], found[1:]


@pytest.mark.parametrize("k", range(3))
def test_the_norm_of_a_log_probability(k):
    network, singles = labelled(0)
    found = GradientNorm(target=k, loss="cross_entropy").per_example(network, X)
    expected = GradientNorm(target=1, loss="cross_entropy").per_example(singles[k], X)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    with tf.GradientTape() as tape:
        x = tf.constant(X)
        tape.watch(x)
        log = tf.math.log_sigmoid(network(x)[:, k])
    squares = tf.reduce_sum(tape.gradient(log, x) ** 2, [1, 2, 3])
    np.testing.assert_allclose(found, squares, rtol=1e-12)


def test_the_cross_entropy_of_jacobians():
    (network, singles), (teacher, taught) = labelled(0), labelled(5)
    options = {"loss": "cross_entropy", "temperature": 2.0}
    terms = [
        JacobianMatching(target="all", **options).per_example(s, X, teacher=t)
        for s, t in zip(singles, taught, strict=True)
    ]
    of_all = JacobianMatching(target="all", **options).per_example(network, X, teacher=teacher)
    np.testing.assert_allclose(of_all, tf.add_n(terms), rtol=1e-12)
    of_one = JacobianMatching(target=1, **options).per_example(network, X, teacher=teacher)
    np.testing.assert_allclose(of_one, terms[1], rtol=1e-12)
    assert np.abs(of_one).min() > 0


def test_the_predicted_label_is_the_largest():
    network, _ = labelled(0)
    largest = network.predict(X, verbose=0).argmax(-1)
    penalty = GradientNorm(target="predicted", loss="cross_entropy")
    of_largest = GradientNorm(target=largest, loss="cross_entropy")
    np.testing.assert_array_equal(
        penalty.per_example(network, X), of_largest.per_example(network, X)
    )


def test_several_labels_of_an_example():
    network, _ = labelled(0)
    with pytest.raises(ArgumentError, match="needs one label per example; try target='predicted'"):
        GradientNorm(loss="cross_entropy").per_example(network, X, MULTI_HOT)
