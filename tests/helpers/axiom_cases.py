"""Networks whose maps, biases and regions are known, for the axioms."""

import keras
import numpy as np

from tfgrad import saliency

L = keras.layers
SHAPE = (6, 6, 2)
GRADIENT = saliency.get("input_gradient")
PRODUCT = saliency.get("input_times_gradient")
INTEGRATED = saliency.get("integrated_gradients")
RANDOM = saliency.get("random")


def images(n=6, seed=0):
    return np.random.default_rng(seed).uniform(0.2, 1, (n, *SHAPE)).astype(keras.config.floatx())


def relu(bias=0.3, activation="relu"):
    """A convolution, a dense layer, biases of both signs and of size `bias`."""
    network = keras.Sequential(
        [
            keras.Input(SHAPE),
            L.Conv2D(4, 3, activation=activation, name="conv"),
            L.Flatten(),
            L.Dense(3, name="logits"),
        ]
    )
    rng = np.random.default_rng(3)
    for layer in (network.layers[0], network.layers[-1]):
        layer.bias.assign(bias * rng.normal(size=layer.bias.shape))
    return network


def signed(network):
    """The signed channel sum of the input-gradient."""
    return GRADIENT(network, reduce="sum")


def weights(network):
    return [v.numpy().copy() for v in network.variables]


def number(result, column):
    return result.columns[column][0]
