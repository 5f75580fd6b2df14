"""Networks of series and of volumes, beside networks of images with the same weights."""

import keras
import numpy as np

from tests.helpers.transfer_cases import filled

L = keras.layers
# Number of positions, the shape of an input, that of the same input as an image, and of a kernel of
# width 2 in both.
KINDS = {
    "series": (1, (7, 1), (1, 7, 1), (2,), (1, 2)),
    "volumes": (3, (1, 4, 5, 1), (4, 5, 1), (1, 2, 2), (2, 2)),
}


def network(dimensions, shape, window, depth, channels, name, activation="softplus"):
    """Convolutions `conv0`, `conv1`, …, the mean over positions, and three logits."""
    convolution = getattr(L, f"Conv{dimensions}D")
    steps = [keras.Input(shape)]
    for i in range(depth):
        steps.append(convolution(channels, window, activation=activation, name=f"conv{i}"))
    steps += [getattr(L, f"GlobalAveragePooling{dimensions}D")(), L.Dense(3, name="head")]
    return filled(keras.Sequential(steps, name=name), depth)


def pair(kind, depth, channels, name="network", activation="softplus"):
    """A network of the kind, and one of images with the same weights."""
    dimensions, shape, image, window, flat = KINDS[kind]
    own = network(dimensions, shape, window, depth, channels, name, activation)
    twin = network(2, image, flat, depth, channels, name, activation)
    for to, of in zip(twin.weights, own.weights, strict=True):
        to.assign(np.reshape(of, to.shape))
    return own, twin


def inputs(kind, count=3):
    """Inputs of both networks of a pair."""
    x = np.random.default_rng(3).normal(size=(count, *KINDS[kind][1]))
    return x, x.reshape(count, *KINDS[kind][2])
