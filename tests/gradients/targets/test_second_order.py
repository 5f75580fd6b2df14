"""Penalties on the gradients of targets: the derivative with respect to weights."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.target_cases import CASES, images, probe

FAST = ("scalar", "region", "similarities")
cases = [c if c in FAST else pytest.param(c, marks=pytest.mark.slow) for c in CASES]


@pytest.mark.parametrize("case", cases)
def test_the_gradient_of_a_gradient_norm(float64, case):
    network, target = (make() for make in CASES[case])
    x, weights = images(), [v.value for v in network.trainable_variables]
    generator = np.random.default_rng(4)
    v = [generator.normal(size=w.shape) for w in weights]
    # The choices that a target leaves open are constants.
    target = probe(network, x).fixed(target)

    def norm():
        gradient = probe(network, x).input_gradient(target)
        return tf.reduce_sum(tf.square(gradient))

    with tf.GradientTape() as tape:
        value = norm()
    exact = tape.gradient(value, weights, unconnected_gradients="zero")
    exact = sum(float(tf.reduce_sum(g * d)) for g, d in zip(exact, v, strict=True))
    start, total, step = [w.numpy() for w in weights], 0.0, 1e-4
    for offset, factor in ((-2, 1.0), (-1, -8.0), (1, 8.0), (2, -1.0)):
        for w, s, d in zip(weights, start, v, strict=True):
            w.assign(s + offset * step * d)
        total += factor * float(norm())
    assert abs(exact - total / (12 * step)) < 1e-6 * max(abs(exact), 1.0)
