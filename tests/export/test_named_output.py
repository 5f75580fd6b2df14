"""Exports of networks that return a dict or list of one output."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.serving_cases import close, floats, signatures, targets
from tests.helpers.variants import with_slow
from tfgrad import export, saliency

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:model :tfgrad.errors.LogitsWarning"),
]
SHAPE = (8, 9, 3)
PROBABILITIES = {None: tf.nn.softmax, "softmax": tf.identity, "sigmoid": tf.identity}


class Own(keras.Model):
    def __init__(self, body):
        super().__init__()
        self.body, self.last = body

    def call(self, x):
        return {"p": self.last(self.body(x))}


def layers(activation):
    keras.utils.set_random_seed(0)
    convolution = keras.layers.Conv2D(4, 3, activation="relu")
    body = keras.Sequential([keras.Input(SHAPE), convolution, keras.layers.Flatten()])
    return body, keras.layers.Dense(4, activation=activation)


def functional(activation, form):
    body, last = layers(activation)
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, form(last(body(inputs))))


def subclassed(activation):
    network = Own(layers(activation))
    network(floats(1))
    return network


KINDS = {
    "a dict": lambda activation: functional(activation, lambda y: {"p": y}),
    "a list": lambda activation: functional(activation, lambda y: [y]),
    "a dict of a subclassed model": subclassed,
}

# Every form and two activations.
QUICK = [("a list", "softmax"), ("a dict of a subclassed model", "sigmoid")]


@pytest.mark.parametrize(
    ("kind", "activation"),
    with_slow(
        QUICK,
        [(kind, name) for kind in KINDS for name in PROBABILITIES if (kind, name) not in QUICK],
    ),
)
def test_it_serves_what_the_network_computes(tmp_path, kind, activation):
    network = KINDS[kind](activation)
    _, served = signatures(export.save(network, tmp_path, ["input_gradient"], image_range=(0, 1)))
    x, target = tf.constant(floats(4)), tf.constant(targets(4))
    (output,) = tf.nest.flatten(network(x))
    found = served["serving_default"](image=x)
    close(found["probabilities"], PROBABILITIES[activation](output))
    live = saliency.InputGradient(network).explain(x, target)
    for key, values in served["input_gradient"](image=x, target=target).items():
        close(values, live[key])
    chosen = np.take_along_axis(found["logits"].numpy(), live["class"].numpy()[:, None], 1)[:, 0]
    np.testing.assert_allclose(live["score"], chosen, rtol=1e-6)
