"""What the fooling constructions refuse, each in one sentence that names the argument."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.test_fooling import SHAPE, network, waves
from tfgrad.errors import TfgradError
from tfgrad.fooling import Picture, Ripple, per_class_shift, rippled, shared_shift

L = keras.layers


def softmax_network():
    return keras.Sequential([keras.Input(SHAPE), L.Flatten(), L.Dense(3, activation="softmax")])


def two_outputs():
    x = keras.Input(SHAPE)
    flat = L.Flatten()(x)
    return keras.Model(x, [L.Dense(2)(flat), L.Dense(3)(flat)])


def shifted(g, net=None):
    return shared_shift(network() if net is None else net, g)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: shifted(Picture(1.0), "net"), "network: got 'str'"),
        (lambda: shifted(Picture(1.0), tfgrad.PenalizedModel(network())), r"give its \.network"),
        (lambda: shifted(Picture(1.0), softmax_network()), "returns probabilities"),
        (lambda: shifted(Picture(1.0), two_outputs()), "one_head"),
        (lambda: shifted(lambda x: x), "g: got a function"),
        (lambda: shifted(waves()), r"g: .* returns \(None, 3\) for .*expected \(None, 1\)"),
        (lambda: shifted(Picture(np.ones((4, 5)))), r"pattern: got shape \(4, 5\) for images"),
        (lambda: per_class_shift(network(), Picture(1.0), 0.1), r"phases: .* \(None, 1\) for"),
        (lambda: per_class_shift(network(), waves(), -0.1), r"epsilon: got -0\.1; expected"),
        (lambda: Picture([[np.nan]]), "pattern: got shape .*finite: False"),
        (lambda: Picture("mask"), "pattern: got str that is no array"),
        (lambda: Picture(1.0, [[1.0]]), r"scale: got shape \(1, 1\)"),
        (lambda: Ripple([1.0]), r"amplitude: got shape \(1,\)"),
        (lambda: rippled(tf.zeros([1]), tf.zeros([1, 2]), 0.1, np.inf), "frequency: got shape"),
        (
            lambda: rippled(tf.zeros([5, 1]), tf.zeros([5, 2]), 0.1, 1.0),
            r"loss: got shape \(5, 1\) for x of shape \(5, 2\); expected one number for each",
        ),
        (lambda: rippled(tf.zeros([]), tf.zeros([5, 2]), 0.1, 1.0), r"loss: got shape \(\) for x"),
        (lambda: rippled(tf.zeros([1]), tf.zeros([5, 2]), 0.1, 1.0), r"loss: got shape \(1,\)"),
        (lambda: rippled([1.0], [[1, 2]], 0.1, 1.0), "x: got int32, which has no gradient"),
        (lambda: rippled([1], [[1.0, 2.0]], 0.1, 1.0), "loss: got int32"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(TfgradError, match=message):
        make()
