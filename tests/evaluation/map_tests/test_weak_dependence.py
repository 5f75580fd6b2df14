"""Weak dependence, on networks whose linear regions are known."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.axiom_cases import GRADIENT, PRODUCT, images, number, relu
from tfgrad.errors import DataError
from tfgrad.evaluation import weak_dependence


@pytest.mark.usefixtures("float64")
def test_weak_dependence_within_a_region():
    network, x = relu(), images()
    assert weak_dependence(network, x, GRADIENT, batch_size=4).value == 0
    seen = []

    def method(m):
        product = PRODUCT(m)
        return lambda x, y: (seen.append(x.numpy()), product(x, y))[1]

    result = weak_dependence(network, x, method, 1e-2, seed=4, batch_size=4)
    here, there = np.concatenate(seen[:2]), np.concatenate(seen[2:])
    with tf.GradientTape(persistent=True) as tape:
        inputs = [tf.constant(x), tf.constant(there)]
        tape.watch(inputs)
        scores = [tf.reduce_max(network(i), -1) for i in inputs]
    gradients = [tape.gradient(s, i).numpy() for s, i in zip(scores, inputs, strict=True)]
    np.testing.assert_array_equal(here, x)
    np.testing.assert_allclose(*gradients, atol=1e-12)  # the same region
    flat = [v.reshape(6, -1) for v in (x, there - x)]
    lengths = np.linalg.norm(flat[1], axis=1) / np.linalg.norm(flat[0], axis=1)
    halvings = np.log2(1e-2 / lengths)
    np.testing.assert_allclose(halvings, halvings.round(), atol=1e-9)
    assert halvings.round().max() > 0.5  # somebody had to come back
    maps = [(gradients[0] * v).sum(-1).reshape(6, -1) for v in (x, there - x)]
    each = np.linalg.norm(maps[1], axis=1) / np.linalg.norm(maps[0], axis=1) / lengths
    assert result.value == pytest.approx(each.mean(), rel=1e-3)  # maps are float32
    assert number(result, "move") == pytest.approx(lengths.mean(), rel=1e-9)
    assert number(result, "regions left") == number(result, "maps left out") == 0
    assert (result.direction, result.seed) == ("lower", 4)


@pytest.mark.long
def test_the_noise_is_a_function_of_the_seed_and_not_of_the_batches():
    network, x = relu(), images()

    def of(seed, size):
        return weak_dependence(network, x, PRODUCT, seed=seed, batch_size=size).value

    assert of(1, 2) == pytest.approx(of(1, 6), rel=1e-3)
    assert of(1, 2) != pytest.approx(of(2, 2), rel=1e-3)


@pytest.mark.long
def test_images_at_the_edge_of_a_region_and_smooth_networks():
    network, x = relu(), images()
    x[2] = 0  # has no size to move by
    result = weak_dependence(network, x, PRODUCT)
    assert number(result, "maps left out") == 1 and result.examples == 5
    with pytest.raises(DataError, match=r"none of 6 stays within a linear region .* by 4\.9e-04"):
        weak_dependence(relu(activation="softplus"), images(), GRADIENT, 0.5)
