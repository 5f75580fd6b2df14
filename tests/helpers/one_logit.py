"""A network with one logit f of two classes, and the same function as the two logits [0, f]."""

import keras
import numpy as np

L = keras.layers
SHAPE = (6, 5, 2)


class FromZero(L.Layer):
    """[0, f] from f."""

    def call(self, f):
        return keras.ops.concatenate([keras.ops.zeros_like(f), f], -1)


class Opposite(L.Layer):
    """−f from f."""

    def call(self, f):
        return -f


def pair(activation="softplus", negated=False, seed=0):
    """(the network f [batch, 1], the network [0, f], or −f alone if `negated`), sharing weights."""
    image = keras.Input(SHAPE)
    random = keras.initializers.RandomNormal
    options = {
        "kernel_initializer": random(0.0, 0.4, seed),
        "bias_initializer": random(0.0, 0.4, 9),
    }
    z = L.Conv2D(4, 3, padding="same", **options, name="first")(image)
    z = L.Activation(activation, name="activation")(z)
    z = L.Conv2D(3, 3, kernel_initializer=random(0.0, 0.4, seed + 1), name="second")(z)
    z = L.Flatten()(L.Activation(activation, name="last")(z))
    bias = keras.initializers.Constant(2.4)
    f = L.Dense(1, kernel_initializer=random(0.0, 0.4, seed + 2), bias_initializer=bias)(z)
    one = keras.Model(image, f, name="one_logit")
    other = (Opposite if negated else FromZero)()(f)
    return one, keras.Model(image, other, name="negated" if negated else "two_logits")


def compiled_pair(**options):
    """`pair`, where the compiled loss tells what the one logit means."""
    one, other = pair(**options)
    one.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    if options.get("negated"):
        other.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    return one, other


def images(count=6, seed=0, dtype="float32"):
    """Images that both classes occur among the predictions of."""
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(dtype)
