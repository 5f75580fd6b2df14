"""The decomposition of any scalar of the outputs: exact, per example, and in one forward pass."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers import target_cases
from tests.helpers.target_cases import CASES, images, slope_error
from tfgrad import targets
from tfgrad.errors import ArgumentError, ModelError

# A case of each kind; the others are slow.
FAST = ("scalar", "contrast", "region of masks", "box")
every_case = pytest.mark.parametrize("case", CASES)


def _fast(*cases):
    every = [c if c in cases else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
    return pytest.mark.parametrize("case", every)


in_part_slow = _fast(*FAST)


def made(case):
    network, target = CASES[case]
    return network(), target()


@pytest.mark.long
@pytest.mark.sample(2)
@every_case
def test_it_is_exact_in_float64(float64, case):
    network, target = made(case)
    x = images()
    full = tfgrad.full_gradients(network, x, target)
    assert full.score.dtype == tf.float64 and full.score.shape == (3,) and full.classes is None
    # A cosine is no linear function, and its term cancels a part of the others.
    assert float(tf.reduce_max(tf.abs(full.score - full.total()))) < 1e-12
    assert ("target" in full.bias_gradients) == (not target.linear)
    assert slope_error(network, x, target) < 1e-7


@pytest.mark.sample(2, start=1)
@in_part_slow
def test_a_graph_gives_the_same(case):
    network, target = made(case)
    x = tf.constant(images())
    eager = tfgrad.full_gradients(network, x, target)

    @tf.function(input_signature=[tf.TensorSpec([None, *x.shape[1:]])], autograph=False)
    def traced(x):
        full = tfgrad.full_gradients(network, x, target)
        return full.score, full.input_gradient, full.total()

    score, gradient, total = traced(x)
    np.testing.assert_allclose(score, eager.score, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, eager.input_gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(total, eager.score, rtol=1e-5, atol=1e-5)


def _one_of(values, i):
    return {name: v if v is None else v[i : i + 1] for name, v in values.items()}


@in_part_slow
def test_examples_do_not_interact(float64, case):
    network, target = made(case)
    x = images()
    gradient = tfgrad.full_gradients(network, x, target).input_gradient
    for i in range(len(x)):
        own = target.with_values(_one_of(target.values, i))
        alone = tfgrad.full_gradients(network, x[i : i + 1], own)
        np.testing.assert_allclose(alone.input_gradient[0], gradient[i], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", ["scalar", "contrast", "region", "box", "similarity"])
def test_half_precision(case):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        network, target = made(case)
    finally:
        keras.config.set_dtype_policy("float32")
    full = tfgrad.full_gradients(network, images(dtype="float32"), target)
    assert full.score.dtype == tf.float32
    assert float(tf.reduce_max(tf.abs(full.score - full.total()))) < 0.05


class Subclassed(keras.Model):
    """A model whose outputs nothing defines before a call."""

    def __init__(self, inner, **options):
        super().__init__(**options)
        self.inner = inner

    def call(self, x):
        return self.inner(x)


@_fast("scalar", "region of masks")
def test_nested_and_subclassed_models(float64, case):
    network, target = made(case)
    x = images()
    expected = tfgrad.full_gradients(network, x, target).input_gradient
    i = keras.Input(x.shape[1:])
    for model in (keras.Model(i, network(i)), Subclassed(network)):
        model(x)
        full = tfgrad.full_gradients(model, x, target)
        np.testing.assert_allclose(full.input_gradient, expected, rtol=1e-10, atol=1e-12)


@_fast("scalar", "region")
def test_one_forward_pass(case):
    network, target = made(case)
    # The gradient of a transposed convolution is a convolution.
    kinds = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
    convolutions = sum(isinstance(layer, kinds) for layer in network.layers)

    @tf.function(autograph=False)
    def gradient(x):
        return tfgrad.full_gradients(network, x, target).input_gradient

    graph = gradient.get_concrete_function(tf.TensorSpec([3, *target_cases.SHAPE])).graph
    assert sum(op.type == "Conv2D" for op in graph.get_operations()) == convolutions


def test_a_contrast_is_the_difference_of_two_decompositions(float64):
    network, x = target_cases.classifier(), images()
    full = tfgrad.full_gradients(network, x, targets.Contrast(2, 0))
    first, second = (tfgrad.full_gradients(network, x, k) for k in (2, 0))
    difference = first.input_gradient - second.input_gradient
    np.testing.assert_allclose(full.input_gradient, difference, atol=1e-12)
    for name, term in full.bias_gradients.items():
        other = first.bias_gradients[name] - second.bias_gradients[name]
        np.testing.assert_allclose(term, other, atol=1e-12)


def test_a_function_will_do():
    full = tfgrad.full_gradients(target_cases.heads(), images(), target_cases.price_of_both)
    assert np.max(full.completeness_error()) < 1e-4


@pytest.mark.parametrize("graph", [False, True])
def test_a_target_that_ignores_the_outputs(graph):
    network = target_cases.classifier()

    def constant(outputs):
        return tf.ones(tf.shape(outputs)[0])

    def rounded(outputs):
        return tf.cast(tf.argmax(outputs, 1), tf.float32)

    def gradient(x, target):
        return tfgrad.full_gradients(network, x, target).input_gradient

    for target in (constant, rounded):
        with pytest.raises(ArgumentError, match=rf"target: Scalar\('{target.__name__}'\) does not"):
            (tf.function(gradient, autograph=False) if graph else gradient)(images(), target)


def test_a_network_that_ignores_its_input():
    x = keras.Input((4,))
    network = keras.Model(x, keras.layers.Lambda(lambda t: tf.ones_like(t))(x), name="deaf")
    with pytest.raises(ModelError, match="network 'deaf': its output does not depend"):
        tfgrad.full_gradients(network, np.ones([2, 4], "float32"), targets.Output(1))


def test_a_target_that_is_nan():
    message = r"classifier.*value of Scalar\('scalar'\) nan for example 0"
    with pytest.raises(ModelError, match=message):
        tfgrad.full_gradients(
            target_cases.classifier(), images(), lambda o: tf.math.log(-tf.exp(o[:, 0]))
        )
