"""Functions of the user's as targets, and what is no scalar of each example's outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import target_cases
from tests.helpers.target_cases import images, price_of_both, probe, slope_error
from tfgrad import targets
from tfgrad.errors import ArgumentError
from tfgrad.targets import Scalar

STATE = tf.Variable(0.0)
SEEDS = keras.random.SeedGenerator(1)


def value(network, function, graph=False):
    def score(x):
        return probe(network, x).score(targets.validated(function))

    return (tf.function(score, autograph=False) if graph else score)(tf.constant(images()))


def counting(outputs):
    return outputs[:, 0] + STATE.assign_add(1.0)


def calling_python(outputs):
    found = tf.numpy_function(lambda o: o[:, 0], [outputs], outputs.dtype)
    return tf.ensure_shape(found, outputs.shape[:1])


def differentiable_python(outputs):
    found = tf.py_function(lambda o: o[:, 0] ** 2, [outputs], outputs.dtype)
    return tf.ensure_shape(found, outputs.shape[:1])


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda o: o, r"returns float32 of shape \(.*, 4\); expected floats \[batch\]"),
        (lambda o: o[:, :2], r"returns float32 of shape \(.*, 2\)"),
        (lambda o: tf.reduce_sum(o), r"returns float32 of shape \(\)"),
        (lambda o: o[0], r"mixes the examples|returns float32 of shape \(4,\)"),
        (lambda o: tf.argmax(o, 1), r"returns int64 of shape"),
        (lambda o: o[:, 0] > 0, r"returns bool of shape"),
        (lambda o: [1.0, 2.0, 3.0], r"returns a list"),
        (lambda o: o[:, 0] + tf.random.normal([]), r"draws random numbers.*RandomStandardNormal"),
        (lambda o: o[:, 0] + keras.random.normal([]), r"draws random numbers or keeps state, by"),
        (lambda o: o[:, 0] + keras.random.normal([], seed=SEEDS), r"draws random numbers or keeps"),
        (lambda o: keras.random.dropout(o, 0.5, seed=SEEDS)[:, 0], r"draws random numbers or keep"),
        (counting, r"\('counting'\) draws random numbers or keeps state \(Assign"),
        (calling_python, r"\('calling_python'\) calls Python \(PyFunc"),
        (differentiable_python, r"calls Python \(EagerPyFunc\), whose second derivative"),
        (lambda o: tf.py_function(lambda v: v[:, 0], [o], o.dtype), r"calls Python \(EagerPyFunc"),
        (
            lambda o: tf.raw_ops.PlaceholderWithDefault(input=o[:, :1], shape=None),
            r"returns float32 of shape (unknown|\(.*, 1\))",
        ),
        (lambda o: o[:, 0] / tf.reduce_sum(o), r"mixes the examples of a batch"),
        (lambda o: o[:, 0] - o[0, 0], r"mixes the examples of a batch"),
        (lambda o: tf.cumsum(o[:, 0]), r"mixes the examples of a batch"),
        (lambda o: tf.nn.softmax(o[:, 0]), r"mixes the examples of a batch"),
        (lambda o: o[::-1, 0], r"mixes the examples of a batch"),
    ],
)
def test_no_scalar_of_each_example(function, message, graph):
    with pytest.raises(ArgumentError, match=f"target: Scalar.*{message}"):
        value(target_cases.classifier(), function, graph)


def test_examples_that_two_outputs_mix():
    with pytest.raises(ArgumentError, match="mixes the examples"):
        value(target_cases.heads(), lambda o: o["price"][:, 0] + tf.reduce_mean(o["map"]))


WEIGHTS = np.array([1.0, 2.0, 3.0], "float32")


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        lambda o: o[:, 0] * WEIGHTS,  # made for batches of three
        lambda o: tf.math.log(o[:, 0]),  # not finite on the numbers that are tried
        lambda o: tf.reduce_max(o, 1),
        lambda o: keras.ops.logsumexp(o, axis=-1),
        lambda o: o[:, 0] + keras.random.normal([], seed=3),  # one and the same number
        lambda o: tf.stop_gradient(o[:, 1]) * o[:, 0],
        lambda o: tf.vectorized_map(lambda one: tf.reduce_sum(one**2), o),
        lambda o: tf.cast(o[:, 0], tf.float16),
    ],
)
def test_scalars_of_each_example(function, graph):
    found = value(target_cases.classifier(), function, graph)
    assert found.shape == (3,) and found.dtype == tf.float32


def test_a_tensor_of_the_graph_that_uses_it():
    network = target_cases.classifier()

    @tf.function(autograph=False)
    def score(x, weights):
        return probe(network, x).score(Scalar(lambda o: o[:, 0] * weights))

    x = tf.constant(images())
    np.testing.assert_allclose(score(x, WEIGHTS), network(x)[:, 0] * WEIGHTS, rtol=1e-5)


def test_a_function_is_checked_once():
    calls = []

    def counted(outputs):
        calls.append(outputs)
        return outputs[:, 0]

    network = target_cases.classifier()
    value(network, counted)
    first = len(calls)
    value(network, counted)
    assert len(calls) == first + 1


def test_the_check_moves_no_seed():
    before = SEEDS.state.numpy()
    with pytest.raises(ArgumentError):
        value(target_cases.classifier(), lambda o: keras.random.dropout(o, 0.5, seed=SEEDS)[:, 0])
    np.testing.assert_array_equal(SEEDS.state, before)


def test_differences(float64):
    assert slope_error(target_cases.heads(), images(), Scalar(price_of_both)) < 1e-7


def test_names():
    assert Scalar(price_of_both).name == "price_of_both"
    assert Scalar(lambda o: o).name == "scalar" and Scalar(len, "length").name == "length"
    with pytest.raises(ArgumentError, match="name: got 'a/b'; expected a name without '/'"):
        Scalar(len, "a/b")
    with pytest.raises(ArgumentError, match="function: got a int; expected a function of the out"):
        Scalar(3)


def test_equal_functions_are_one_gradient():
    at = probe(target_cases.heads(), images())
    first, second = (at.input_gradient(Scalar(price_of_both)) for _ in range(2))
    assert first is second
