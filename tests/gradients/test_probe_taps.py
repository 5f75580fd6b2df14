"""The probe's taps: every call of a layer by its name, and no trace left behind."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.probe_cases import Function, X
from tfgrad.errors import ArgumentError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal import call_hooks

L = keras.layers
ORDINARY_CALL = L.Layer.__call__


def convolution(channels, name):
    return L.Conv2D(channels, 3, padding="same", activation="softplus", name=name)


def functional_with_a_shared_layer():
    image = keras.Input((4, 4, 2))
    shared = convolution(2, "shared")
    x = shared(image)
    x = shared(x) + x
    return keras.Model(image, L.Dense(2)(L.Flatten()(x)))


def nested():
    inner = keras.Sequential([keras.Input((4, 4, 2)), convolution(2, "shared")], name="inner")
    image = keras.Input((4, 4, 2))
    return keras.Model(image, L.Dense(2)(L.Flatten()(inner(inner(image)))))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.shared, self.head = convolution(2, "shared"), L.Dense(2)

    def call(self, x):
        x = self.shared(x)
        x = self.shared(x) * 2.0
        return self.head(keras.ops.reshape(x, (-1, 32)))


@pytest.mark.parametrize("make", [functional_with_a_shared_layer, nested, Subclassed])
def test_a_layer_called_twice_appears_twice(make):
    network = make()
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype("float32")
    network(x)
    probe = Probe(network, x, needs=Needs(layers=("shared",)))
    assert list(probe.layer_outputs) == ["shared", "shared:1"]
    shared = next(i for i in call_hooks.flatten(network) if i.name == "shared")
    first, second = probe.layer_outputs.values()
    np.testing.assert_allclose(first, shared(x), rtol=1e-6)
    np.testing.assert_allclose(second, shared(shared(x)), rtol=1e-5)
    # The gradient of the later call against the head's arithmetic, by a second way.
    gradients = probe.layer_gradients(0)
    assert list(gradients) == ["shared", "shared:1"]
    with tf.GradientTape() as tape:
        tape.watch(x := tf.constant(x))
        y = shared(x)
    through_the_first = tape.gradient(y, x, output_gradients=gradients["shared"])
    np.testing.assert_allclose(through_the_first, probe.input_gradient(0), rtol=1e-4, atol=1e-6)
    assert np.abs(gradients["shared"] - gradients["shared:1"]).max() > 1e-3
    assert L.Layer.__call__ is ORDINARY_CALL


def test_the_gradient_of_a_tap_is_the_weights_of_the_head():
    network = keras.Sequential(
        [keras.Input((2,)), L.Dense(3, name="hidden"), L.Dense(2, name="head")]
    )
    probe = Probe(network, X, needs=Needs(layers=("hidden",)))
    column = network.get_layer("head").kernel.numpy()[:, 1]
    np.testing.assert_allclose(probe.layer_gradients(1)["hidden"], [column, column], rtol=1e-6)


def test_a_layer_that_hands_its_input_through_is_a_call_of_its_own():
    """x enters both the identity layer and a skip: the tap sees the layer's path alone."""
    x = keras.Input((2,))
    y = L.Identity(name="through")(x) * 3.0 + x
    probe = Probe(keras.Model(x, y), tf.ones((1, 2)), needs=Needs(layers=("through",)))
    np.testing.assert_array_equal(probe.layer_gradients(0)["through"], [[3, 0]])
    np.testing.assert_array_equal(probe.input_gradient(0), [[4, 0]])


def test_a_call_without_influence_has_no_gradient():
    x = keras.Input((2,))
    off = L.Dense(1, name="off")(keras.ops.stop_gradient(x))
    network = keras.Model(x, L.Dense(2)(x) + keras.ops.stop_gradient(off))
    probe = Probe(network, tf.ones((1, 2)), needs=Needs(layers=("off",)))
    assert probe.layer_gradients(0) == {"off": None}


def test_an_unknown_layer_gets_a_suggestion():
    network = functional_with_a_shared_layer()
    with pytest.raises(ArgumentError, match="no layer named 'shard'; did you mean 'shared'"):
        Probe(network, tf.ones((1, 4, 4, 2)), needs=Needs(layers=("shard",)))
    with pytest.raises(ArgumentError, match=r"no layer named 'zzz'; it has \[.*'shared'"):
        Probe(network, tf.ones((1, 4, 4, 2)), needs=Needs(layers=("shared", "zzz")))


def test_the_hook_goes_away_after_an_error_too():
    def fails(x):
        if not keras.backend.is_keras_tensor(x) and x.shape[0] is not None:
            raise RuntimeError("on purpose")
        return x

    network = keras.Sequential([keras.Input((2,)), Function(fails, name="bad"), L.Dense(2)])
    with pytest.raises(RuntimeError, match="on purpose"):
        Probe(network, X, needs=Needs(layers=("bad",)))
    assert L.Layer.__call__ is ORDINARY_CALL


def test_two_threads_at_once_do_not_mix():
    meeting, probes, errors = threading.Barrier(2, timeout=30), {}, []

    def wait(x):
        if not keras.backend.is_keras_tensor(x) and x.shape[0] is not None:
            meeting.wait()  # both threads are inside their forward pass now
        return x

    def network(offset):
        return keras.Sequential(
            [
                keras.Input((2,)),
                Function(wait),
                Function(lambda x: x + offset, name="tap"),
                Function(wait),
                Function(lambda x: x * 2.0, name="tap_after"),
                L.Dense(2),
            ]
        )

    networks = {offset: network(float(offset)) for offset in (1, 10)}

    def run(offset):
        try:
            needs = Needs(layers=("tap",) if offset == 1 else ("tap", "tap_after"))
            probes[offset] = Probe(networks[offset], np.zeros((1, 2), "float32"), needs=needs)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(o,)) for o in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(probes[1].layer_outputs) == ["tap"]
    assert list(probes[10].layer_outputs) == ["tap", "tap_after"]
    np.testing.assert_array_equal(probes[1].layer_outputs["tap"], [[1, 1]])
    np.testing.assert_array_equal(probes[10].layer_outputs["tap_after"], [[20, 20]])
    assert L.Layer.__call__ is ORDINARY_CALL
