"""Methods that share the trace of one network's input-gradient return what they do alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad import saliency
from tfgrad.saliency.shared_passes import SharedProbe, shared_passes

layers = keras.layers
IMAGES = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype("float32")
TARGET = tf.constant([1, -1, 0])


class Counted(layers.Layer):
    """Counts how often a network is traced."""

    traces = 0

    def call(self, inputs):
        Counted.traces += 1
        return inputs


def network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            Counted(),
            layers.Conv2D(4, 3, activation="silu", bias_initializer="normal"),
            layers.Conv2D(4, 3, activation="relu", bias_initializer="normal"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, bias_initializer="normal"),
        ]
    )


def methods(of):
    return [
        saliency.InputGradient(of),
        saliency.InputTimesGradient(of),
        saliency.IntegratedGradients(of, steps=3),
        saliency.SmoothGrad(of, samples=3),
        saliency.SmoothGradSquared(of, samples=2),
        saliency.SmoothFullGrad(of, samples=2),
    ]


def traced(method):
    spec = tf.TensorSpec([None, 8, 8, 3])
    target = tf.TensorSpec([None], tf.int32)
    return tf.function(method.explain, autograph=False).get_concrete_function(spec, target)


def outputs(function):
    return {key: value.numpy() for key, value in function(tf.constant(IMAGES), TARGET).items()}


@pytest.mark.long
def test_values_are_those_of_methods_alone():
    own = network()
    alone = [outputs(traced(method)) for method in methods(own)]
    with shared_passes():
        together = [traced(method) for method in methods(own)]
    for one, function in zip(alone, together, strict=True):
        found = outputs(function)
        assert found.keys() == one.keys()
        for key, value in found.items():
            # A gap is the difference of two sums of the size of the score.
            np.testing.assert_allclose(value, one[key], rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.long
def test_one_trace_serves_all_that_ask_gradients_alone():
    own = network()
    made = methods(own)[:-1]
    for method in made:  # what is looked up once for each method
        traced(method)
    Counted.traces = 0
    with shared_passes():
        for method in made:
            traced(method)
    assert Counted.traces == 1


def test_other_scalars_have_passes_of_their_own():
    own = network()
    method = saliency.InputGradient(own, of="loss", temperature=2.0)
    alone = outputs(traced(method))
    with shared_passes():
        found = outputs(traced(method))
    for key, value in found.items():
        np.testing.assert_allclose(value, alone[key], rtol=1e-5, atol=1e-7)


class Doubled(saliency.InputGradient):
    """A method of a user's own that changes what is asked."""

    name = "doubled"

    def probe(self, x, target=None, values=None):
        return super().probe(2 * x, target, values)


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", [Doubled, saliency.GuidedBackprop, saliency.GradCAM])
def test_methods_that_change_their_passes_do_not_share(kind):
    own = network()
    method = kind(own)
    alone = outputs(traced(method))
    with shared_passes():
        traced(saliency.InputGradient(own))
        assert not isinstance(method.probe(tf.constant(IMAGES), TARGET), SharedProbe)
        found = outputs(traced(method))
    for key, value in found.items():
        np.testing.assert_allclose(value, alone[key], rtol=1e-5, atol=1e-7)


def test_each_network_has_its_own():
    first, second = network(), network()
    alone = [outputs(traced(saliency.InputGradient(one)))["saliency"] for one in (first, second)]
    with shared_passes():
        together = [traced(saliency.InputGradient(one)) for one in (first, second)]
    for one, function in zip(alone, together, strict=True):
        np.testing.assert_allclose(outputs(function)["saliency"], one, rtol=1e-5, atol=1e-7)
    assert not np.allclose(*alone)


def test_nothing_is_shared_after_the_context():
    own = network()
    with shared_passes():
        traced(saliency.InputGradient(own))
    probe = saliency.InputGradient(own).probe(tf.constant(IMAGES), TARGET)
    assert not isinstance(probe, SharedProbe)
