"""Networks whose layers are re-initialised, and images for them."""

import keras
import numpy as np
import tensorflow as tf

SHAPE = (6, 6, 2)
L = keras.layers


def images(n=5, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, *SHAPE)).astype("float32")


def trained(network, seed=7):
    """Weights as far from initial ones as training would bring them; variances stay positive."""
    rng = np.random.default_rng(seed)
    for w in network.weights:
        moved = w / 2 + 0.2 * rng.normal(size=w.shape)
        w.assign(tf.abs(moved) if "variance" in w.name else moved)
    return network


def functional():
    """A nested block, a 1×1 convolution, a batch norm, and a layer that two paths share."""
    inner = keras.Input((6, 6, 4))
    block = keras.Model(
        inner, L.Conv2D(4, 1, name="conv")(L.ReLU()(L.BatchNormalization(name="norm")(inner)))
    )
    block.name = "block"
    x = keras.Input(SHAPE)
    shared = L.Conv2D(4, 3, padding="same", name="shared")
    first = L.Conv2D(2, 3, padding="same", name="first")(x)
    both = L.Add()([shared(x), shared(first)])
    hidden = L.Flatten()(block(both))
    return trained(keras.Model(x, L.Dense(3, name="logits")(hidden)))


def sequential(**dense):
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            L.Conv2D(3, 3, activation="relu", name="conv"),
            L.Flatten(),
            L.Dense(3, name="logits", **dense),
        ]
    )


class Scaled(L.Layer):
    """Takes an object that no configuration holds."""

    def __init__(self, thing, **kwargs):
        super().__init__(**kwargs)
        self.thing = thing

    def build(self, shape):
        self.gain = self.add_weight(shape=shape[1:], initializer="ones", name="gain")

    def call(self, x):
        return self.gain * x


class Subclassed(keras.Model):
    """Layers made in another order than called; attention, a cell, a wrapper, own weights."""

    def __init__(self):
        super().__init__()
        self.head = L.Dense(3, name="head")
        self.unused = L.Dense(3, name="unused")
        self.recurrent = L.Bidirectional(L.LSTM(2), name="both")
        self.attention = L.MultiHeadAttention(1, 2, name="attention")
        self.scaled = Scaled(object(), name="scaled")
        self.each = L.TimeDistributed(L.Dense(4), name="each")
        self.unused.build((None, 2))

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, 4), initializer="normal", name="token")

    def call(self, x):
        x = self.each(self.scaled(tf.reshape(x, [-1, 12, 6])))
        return self.head(self.recurrent(self.attention(x, x) + self.token))


def subclassed():
    network = Subclassed()
    network(images(1))
    return trained(network)


def weights(network):
    return [v.numpy().copy() for v in network.variables]


def assert_equal(network, before):
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
