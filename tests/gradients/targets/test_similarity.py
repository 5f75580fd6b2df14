"""The cosine with a given embedding as a target."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import target_cases
from tests.helpers.target_cases import images, probe, slope_error
from tfgrad.errors import ArgumentError
from tfgrad.targets import Similarity

V = np.array([1.0, -2.0, 0.5, 0.0, 3.0])


def value(network, target, x=None):
    return probe(network, images() if x is None else x).score(target).numpy()


def test_it_is_the_cosine(float64):
    network = target_cases.embedder()
    e = network(images()).numpy()
    expected = e @ V / np.linalg.norm(e, axis=1) / np.linalg.norm(V)
    np.testing.assert_allclose(value(network, Similarity(V)), expected, rtol=1e-12)
    each = np.stack([V, -V, V[::-1]])
    expected = (e * each).sum(1) / np.linalg.norm(e, axis=1) / np.linalg.norm(each, axis=1)
    np.testing.assert_allclose(value(network, Similarity(each)), expected, rtol=1e-12)
    np.testing.assert_allclose(value(network, Similarity(e)), 1, rtol=1e-12)


def test_its_size_does_not_matter(float64):
    network, x = target_cases.embedder(), images()
    first, second = (probe(network, x).input_gradient(Similarity(v)) for v in (V, 1e6 * V))
    np.testing.assert_allclose(first, second, rtol=1e-9)
    assert slope_error(network, x, Similarity(V)) < 1e-7


def test_an_embedding_that_is_zero():
    network = target_cases.embedder()
    network.layers[-1].kernel.assign(tf.zeros_like(network.layers[-1].kernel))
    network.layers[-1].bias.assign(tf.zeros_like(network.layers[-1].bias))
    at = probe(network, images())
    np.testing.assert_array_equal(at.score(Similarity(V)), 0)
    np.testing.assert_array_equal(at.input_gradient(Similarity(V)), 0)


def test_no_gradient_flows_into_the_given_embedding():
    network = target_cases.embedder()
    given = tf.Variable(V.astype("float32"))
    with tf.GradientTape() as tape:
        cosine = probe(network, images()).score(Similarity(tf.convert_to_tensor(given)))
    assert tape.gradient(cosine, given) is None


def test_what_comes_with_the_examples():
    assert not Similarity(V).values and Similarity().values == {"embedding": None}
    (spec,) = Similarity().specs(tf.TensorSpec([None, 5])).values()
    assert spec.shape.as_list() == [None, 5]
    network = target_cases.embedder()
    given = Similarity(name="like").with_values({"embedding": [V, V, V]})
    assert given.name == "like" and set(given.values) == {"embedding"}
    np.testing.assert_allclose(value(network, given), value(network, Similarity(V)), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Similarity("cat"), r"embedding: got <U3 of shape \(\); expected floats"),
        (lambda: Similarity(0 * V), "embedding: got a vector that is 0, NaN or infinite"),
        (lambda: Similarity([V, 0 * V, V]), "embedding: got a vector that is 0"),
        (lambda: Similarity(V * np.nan), "embedding: got a vector that is 0, NaN or infinite"),
        (lambda: Similarity(tf.zeros([5])), "embedding: got a vector that is 0, NaN or infinite"),
        (lambda: Similarity(), "embedding: got None in Similarity.*with_values"),
        (lambda: Similarity(V[:4]), r"embedding: got shape \(4,\) for an output of shape \(3, 5\)"),
        (lambda: Similarity([V, V]), r"embedding: got shape \(2, 5\) for an output of shape"),
        (lambda: Similarity(V, output=1), "head: got 1; network 'embedder' has one output"),
    ],
)
def test_what_makes_no_sense(make, message):
    network = target_cases.embedder()
    with pytest.raises(ArgumentError, match=message):
        value(network, make())


def test_a_zero_vector_in_a_graph():
    network = target_cases.embedder()
    score = tf.function(lambda x, v: probe(network, x).score(Similarity(v)), autograph=False)
    x = tf.constant(images())
    assert np.isfinite(score(x, tf.ones([5]))).all()
    with pytest.raises(tf.errors.InvalidArgumentError, match="got a vector that is 0"):
        score(x, tf.zeros([5]))
