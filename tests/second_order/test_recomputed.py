"""Calls that the backward pass repeats: no second derivative, refused by name before training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.guard_cases import Lambda, found, network_with
from tfgrad import PenalizedModel, second_order
from tfgrad.errors import SecondOrderError
from tfgrad.penalties import GradientNorm
from tfgrad.second_order.findings import RECOMPUTED

L = keras.layers


def in_scope(mode, **options):
    with keras.RematScope(mode, **options):
        hidden = L.Dense(4, "gelu", name="hidden")
    return keras.Sequential([keras.Input((3,)), hidden, L.Dense(2, name="head")])


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("activations", {}),
        ("full", {}),
        ("larger_than", {"output_size_threshold": 1}),
        ("list_of_layers", {"layer_names": ["hidden"]}),
    ],
)
def test_a_remat_scope_is_named_before_training(mode, options):
    network = in_scope(mode, **options)
    message = r"layer 'hidden' \(Dense\): keras.RematScope, keras.remat .*; build it without them"
    with pytest.raises(SecondOrderError, match=message):
        second_order.check(network)
    model = PenalizedModel(keras.Sequential(network.layers), []) if mode == "activations" else None
    if model is not None:  # Without penalties it trains, as in Keras.
        model.compile("sgd", "mse")
        model.fit(np.ones((2, 3)), np.ones((2, 2)), verbose=0)
    with pytest.raises(SecondOrderError, match=message):
        PenalizedModel(network, [GradientNorm()])


@pytest.mark.parametrize("remat", [keras.remat, tf.recompute_grad])
def test_recomputed_calls_in_ones_own_layers(remat):
    layer = Lambda(remat(lambda x: tf.sin(x)), name="mine")
    network = network_with(L.Dense(4), layer, shape=(3,))
    assert found(network) == [("mine", RECOMPUTED, "error")]


def test_a_recomputed_function_of_the_weights_is_silent():
    # The penalty differentiates it once.
    class Scaled(L.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, x):
            return x * keras.remat(lambda w: tf.sin(w))(tf.convert_to_tensor(self.scale))

    network = network_with(Scaled(), shape=(3,))
    assert found(network) == []


def test_other_value_errors_pass():
    def fails(x):
        raise ValueError("of the layer")

    network = network_with(Lambda(lambda x: x, name="mine"), shape=(3,))
    network.get_layer("mine").function = fails
    with pytest.raises(ValueError, match="of the layer"):
        second_order.check(network)
