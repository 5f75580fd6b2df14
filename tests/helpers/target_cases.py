"""Small smooth networks with outputs of every kind, and the targets that are asked of them."""

import keras
import numpy as np
import tensorflow as tf

from tfgrad import targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe

SHAPE = (6, 6, 2)
BATCH = 3


def images(seed=0, dtype=None):
    drawn = np.random.default_rng(seed).normal(size=(BATCH, *SHAPE))
    return drawn.astype(dtype or keras.config.floatx())


def with_biases(network):
    """The network with random numbers in the place of zero biases."""
    generator = np.random.default_rng(1)
    for v in network.trainable_variables:
        v.assign(v + 0.2 * generator.normal(size=v.shape))
    return network


def trunk(x):
    return keras.layers.Conv2D(4, 3, padding="same", activation="gelu")(x)


def unet(classes=3, last="linear"):
    """An encoder and a decoder with a connection between them; a dense output."""
    x = keras.Input(SHAPE)
    fine = trunk(x)
    coarse = keras.layers.AveragePooling2D(2)(fine)
    coarse = keras.layers.Conv2D(4, 3, padding="same", activation="gelu")(coarse)
    both = keras.layers.Concatenate()([fine, keras.layers.Conv2DTranspose(4, 2, 2)(coarse)])
    dense = keras.layers.Conv2D(classes, 1, activation=last)(both)
    return with_biases(keras.Model(x, dense, name="unet"))


def classifier(classes=4, last="linear"):
    x = keras.Input(SHAPE)
    logits = keras.layers.Dense(classes, activation=last)(keras.layers.Flatten()(trunk(x)))
    return with_biases(keras.Model(x, logits, name="classifier"))


def heads():
    """A regression of a price, a dense output and classes, as a dict."""
    x = keras.Input(SHAPE)
    dense = trunk(x)
    flat = keras.layers.GlobalAveragePooling2D()(dense)
    outputs = {
        "price": keras.layers.Dense(1)(flat),
        "pair": keras.layers.Dense(2, activation="tanh")(flat),
        "map": keras.layers.Conv2D(3, 1)(dense),
        "class": keras.layers.Dense(4)(flat),
    }
    return with_biases(keras.Model(x, outputs, name="heads"))


def detector(classes=3, one=False):
    """Scores [batch, 9, classes] and boxes [batch, 9, 4]; or both in one output."""
    x = keras.Input(SHAPE)
    features = keras.layers.AveragePooling2D(2)(trunk(x))
    scores = keras.layers.Reshape((-1, classes))(
        keras.layers.Conv2D(classes, 3, 1, "same")(features)
    )
    boxes = keras.layers.Reshape((-1, 4))(keras.layers.Conv2D(4, 1)(features))
    outputs = {"boxes": boxes, "scores": scores}
    if one:
        outputs = keras.layers.Concatenate()([boxes, scores])
    return with_biases(keras.Model(x, outputs, name="detector"))


def embedder(size=5):
    x = keras.Input(SHAPE)
    embedding = keras.layers.Dense(size)(keras.layers.Flatten()(trunk(x)))
    return with_biases(keras.Model(x, embedding, name="embedder"))


@keras.saving.register_keras_serializable("tfgrad_tests")
def price_of_both(outputs):
    """A scalar that is linear in none of the outputs."""
    return outputs["price"][:, 0] * outputs["pair"][:, 1] + tf.exp(outputs["price"][:, 0])


def masks(seed=2):
    return np.random.default_rng(seed).uniform(size=(BATCH, *SHAPE[:2]))


ONE_MASK = np.arange(36).reshape(6, 6) % 3 == 0

# {name: (network, target)}, functions of no argument.
CASES = {
    "scalar": (heads, lambda: targets.Scalar(price_of_both)),
    "price": (heads, lambda: targets.Output("price")),
    "second of a pair": (heads, lambda: targets.Output(("pair", 1))),
    "contrast": (classifier, lambda: targets.Contrast()),
    "contrast of classes": (classifier, lambda: targets.Contrast(1, [0, 2, 3])),
    "contrast of a head": (heads, lambda: targets.Contrast(2, 0, output="class")),
    "region": (unet, lambda: targets.Region()),
    "region of a mask": (unet, lambda: targets.Region([0, 1, -1], ONE_MASK)),
    "region of masks": (unet, lambda: targets.Region(2, masks())),
    "region of a head": (heads, lambda: targets.Region(1, ONE_MASK, output="map")),
    "similarity": (embedder, lambda: targets.Similarity([1.0, -2.0, 0.5, 0.0, 3.0])),
    "similarities": (embedder, lambda: targets.Similarity(masks()[:, 0, :5])),
    "box": (detector, lambda: targets.Box()),
    "box of each": (detector, lambda: targets.Box([0, 8, -1], [2, -1, 0])),
    "coordinate": (detector, lambda: targets.Box(classes=1, value=2)),
    "box in one output": (lambda: detector(one=True), lambda: targets.Box(4, value=3)),
}


def probe(network, x, **options):
    return Probe(network, tf.convert_to_tensor(x), needs=Needs(logits=False), **options)


def slope_error(network, x, target, step=1e-3, **options):
    """The error of an input-gradient along a random direction, relative to its size there.

    The derivative of the whole batch's sum, by five points in float64; the choices that the target
    leaves open are those of x.
    """
    at = probe(network, x, **options)
    target = at.fixed(target)
    v = np.random.default_rng(3).normal(size=x.shape)
    total = 0.0
    for offset, factor in ((-2, 1.0), (-1, -8.0), (1, 8.0), (2, -1.0)):
        moved = probe(network, x + offset * step * v, **options)
        total += factor * float(tf.reduce_sum(moved.score(target)))
    numerical = total / (12 * step)
    exact = float(tf.reduce_sum(at.input_gradient(target) * v))
    return abs(exact - numerical) / max(abs(numerical), 1e-3)
