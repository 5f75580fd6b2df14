"""Bias sensitivity, on networks whose biases and regions are known."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.axiom_cases import GRADIENT, RANDOM, SHAPE, images, number, relu, signed, weights
from tfgrad import saliency
from tfgrad.errors import DataError, ModelError
from tfgrad.evaluation import bias_sensitivity

L = keras.layers


def bias_terms(m, factor=1.0):
    """The convolution's bias-gradients at every position, laid over the corner."""

    def maps(x, classes):
        z = m.layers[0](x)
        kernel = tf.reshape(m.layers[-1].kernel, [4, 4, 4, 3])
        upper = tf.transpose(tf.gather(kernel, classes, axis=3), [3, 0, 1, 2])
        terms = tf.reduce_sum(tf.where(z > 0, upper * factor * m.layers[0].bias, 0), -1)
        return tf.pad(terms, [[0, 0], [0, 2], [0, 2]])

    return maps


@pytest.mark.long
@pytest.mark.usefixtures("float64")
def test_biases_move_full_gradients_and_not_the_input_gradient():
    """Within a region each f^b scales with its bias, and no gradient moves."""
    network, x = relu(), images()
    before, step = weights(network), 1e-6

    result = bias_sensitivity(network, x, bias_terms, step, seed=5, draws=3)
    classes = network.predict(x, verbose=0).argmax(1)
    maps = bias_terms(network)(x, classes).numpy()
    each = np.zeros((3, 6))
    for draw in range(3):
        coins = np.random.default_rng([5, draw, 0]).choice([-1, 1], 4)  # of the first with a bias
        moved = bias_terms(network, coins)(x, classes).numpy()
        each[draw] = np.linalg.norm(moved, axis=(1, 2)) / np.linalg.norm(maps, axis=(1, 2))
    assert result.value == pytest.approx(each.mean(), rel=1e-6)
    assert number(result, "median") == pytest.approx(np.median(each), rel=1e-6)
    errors = [each.mean(axis).std(ddof=1) / np.sqrt(each.shape[1 - axis]) for axis in (0, 1)]
    assert result.deviations[0] == pytest.approx(np.hypot(*errors), rel=1e-6)
    assert result.over == "6 images and 3 draws of signs (standard error)"
    for name in ("regions left", "logits unmoved", "maps left out"):
        assert number(result, name) == 0
    assert bias_sensitivity(network, x, signed, step).value == 0
    assert bias_sensitivity(network, x, bias_terms, step, seed=6).value != result.value
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert (result.direction, result.examples) == ("higher", 6)


@pytest.mark.long
def test_fullgrad_moves_in_float32_too_and_random_does_not():
    network, x = relu(), images()
    result = bias_sensitivity(network, x, saliency.get("fullgrad"), 0.01)
    assert 0.01 < result.value < 1
    assert bias_sensitivity(network, x, RANDOM, 0.01).value == 0


@pytest.mark.usefixtures("float64")
def test_the_intercept_of_a_batch_norm_is_scaled_as_a_whole():
    norm = L.BatchNormalization()
    network = keras.Sequential([keras.Input(SHAPE), norm, L.Flatten(), L.Dense(3, use_bias=False)])
    rng = np.random.default_rng(0)
    for w in norm.weights:
        w.assign(rng.uniform(0.5, 2, w.shape))
    seen = []

    def method(m):
        def maps(x, classes):
            seen.append(m(tf.zeros_like(x)).numpy())  # f(0) is what the intercepts amount to
            return tf.reduce_sum(x, -1)

        return maps

    bias_sensitivity(network, images(), method, 0.125, draws=1)
    kernel = network.layers[-1].kernel.numpy()
    coins = np.random.default_rng([0, 0, 0]).choice([-1, 1], 2)
    beta, gamma, mean, variance = (
        w.numpy() for w in (norm.beta, norm.gamma, norm.moving_mean, norm.moving_variance)
    )
    shift = beta - gamma * mean / np.sqrt(variance + norm.epsilon)
    for found, factor in ((seen[0], 1), (seen[1], 1 + 0.125 * coins)):
        expected = np.tile(shift * factor, 36) @ kernel
        np.testing.assert_allclose(found[0], expected, rtol=1e-9)


@pytest.mark.long
def test_the_step_is_halved_until_the_region_stays():
    network, x = relu(), images()
    result = bias_sensitivity(network, x, signed, 5.0)
    assert result.value == number(result, "regions left") == 0
    large, small = (bias_sensitivity(network, x, bias_terms, step).value for step in (5.0, 1e-3))
    assert large == pytest.approx(small, rel=1e-2) and large > 0.1
    smooth = bias_sensitivity(relu(activation="softplus"), x, signed, 0.05, draws=1)
    assert number(smooth, "regions left") == smooth.examples == 6 and smooth.value > 1e-3


@pytest.mark.long
@pytest.mark.usefixtures("float64")
def test_an_image_at_the_edge_of_its_region_is_left_out():
    network, x = relu(), images()
    kernel = network.layers[0].kernel.numpy()
    bias = network.layers[0].bias.numpy()
    patch = np.zeros((3, 3, 2))
    patch[1, 1] = np.linalg.lstsq(kernel[1, 1].T[:1], -bias[:1], rcond=None)[0]
    x[2] = 0
    x[2, :3, :3] = patch  # the first unit's pre-activation is 0 where it can be switched on
    z = network.layers[0](x[2:3]).numpy()
    assert network.layers[0].activation(0.0) == 0 and np.abs(z[0, 0, 0, 0]) < 1e-12
    found = {s: bias_sensitivity(network, x, signed, seed=s, draws=1) for s in range(4)}
    assert {number(r, "regions left") for r in found.values()} == {0, 1}
    assert all(r.value == 0 for r in found.values())
    assert all(r.examples == 6 - number(r, "regions left") for r in found.values())


@pytest.mark.long
def test_a_bias_that_nothing_reaches():
    with pytest.raises(ModelError, match=r"no weight called bias, beta, moving_mean that is not z"):
        bias_sensitivity(relu(bias=0), images(), GRADIENT)
    network = relu()
    network.layers[0].bias.assign([0.0] * 4)
    network.layers[-1].bias.assign([5.0, 0, 0])
    result = bias_sensitivity(network, images(), GRADIENT, target=[0, 1, 0, 2, 0, 1], draws=2)
    assert (number(result, "logits unmoved"), result.examples) == (2 * 3, 3)
    with pytest.raises(DataError, match=r"move the logit of none of 6; expected at least one"):
        bias_sensitivity(network, images(), GRADIENT, target=1)
