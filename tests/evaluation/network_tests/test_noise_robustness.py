"""Accuracy under noise, against a classifier whose answer is known."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad.errors import ArgumentError, ImageRangeWarning
from tfgrad.evaluation import noise_robustness
from tfgrad.evaluation.network_tests.noise_robustness import SIGMAS

# Two classes, logits ±w·x/2 and x = ±margin · w/‖w‖²: class 1 where w·x > 0. Under noise of
# standard deviation σ, w·(x + η) is N(±margin, σ²‖w‖²).
W = np.array([3.0, -4.0, 0.0, 12.0], "float32")  # ‖w‖ = 13
MARGIN = 5.2


def linear(bias=0.0):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    network.set_weights([np.stack([-W / 2, W / 2], 1), np.array([0.0, bias], "float32")])
    return network


def batches(n=4000, size=512):
    y = np.arange(n) % 2
    x = (2 * y[:, None] - 1) * MARGIN * W / np.sum(W**2)
    return tf.data.Dataset.from_tensor_slices((x.astype("float32"), y)).batch(size)


def phi(z):
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def test_a_linear_classifier_has_a_closed_form():
    sigmas = (0.0, 0.2, 0.4, 1.0, 100.0)
    result = noise_robustness(linear(), batches(), sigmas, repeats=3, seed=1)
    assert result.points == sigmas
    assert result.curve()[0.0] == (1.0, 0.0)
    for sigma in sigmas[1:]:
        expected = phi(MARGIN / (sigma * 13))  # .977, .841, .655, .502
        # Four standard deviations of 12,000 draws.
        tolerance = 4 * math.sqrt(expected * (1 - expected) / 12_000)
        mean, deviation = result.curve()[sigma]
        assert mean == pytest.approx(expected, abs=tolerance)
        assert 0 < deviation < 4 * math.sqrt(expected * (1 - expected) / 4000)


@pytest.mark.long
def test_the_deviation_is_that_of_the_repeats():
    each = [noise_robustness(linear(), batches(100), (0.4,), repeats=n) for n in (1, 2, 3)]
    sums = [r.value * repeats for repeats, r in enumerate(each, 1)]
    rates = [sums[0], sums[1] - sums[0], sums[2] - sums[1]]  # The first n repeats are the same.
    assert each[2].curve()[0.4] == pytest.approx((np.mean(rates), np.std(rates)))
    assert each[0].deviations[0] == 0.0


@pytest.mark.long
def test_the_seed_decides_and_the_batch_size_does_not():
    def of(seed, size=512):
        return noise_robustness(linear(), batches(1000, size), (0.3, 0.5), seed=seed).curve()

    assert of(0) == of(0)
    assert of(0) != of(1)
    assert of(0) == of(0, size=7)


def test_models_are_compared_on_equal_images():
    # The same hyperplane, scaled: every noisy image falls on the same side.
    scaled = linear()
    scaled.set_weights([10 * w for w in scaled.get_weights()])
    a, b = (noise_robustness(n, batches(500), (0.4,)).curve() for n in (linear(), scaled))
    assert a == b


def test_the_network_runs_in_inference_mode_and_keeps_its_state():
    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.9)]
    )
    network.add(keras.layers.Dense(2))
    network.layers[-1].set_weights(linear().get_weights())
    before = [v.numpy() for v in network.variables]
    assert noise_robustness(network, batches(64), (0.0,)).value == 1.0
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_the_defaults_are_those_of_the_table():
    result = noise_robustness(linear(), batches(10))
    assert result.points == SIGMAS == (0.0, 0.1, 0.2, 0.3, 0.4)
    assert (result.over, result.seed, result.examples) == ("3 noise draws", 0, 10)
    assert (result.direction, result.along, result.percent) == ("higher", "noise σ", True)


def test_the_network_is_traced_once_whatever_the_last_batch():
    network, calls = linear(), []
    call = network.call
    network.call = lambda x, **kwargs: (calls.append(x.shape[0]), call(x, **kwargs))[1]
    noise_robustness(network, batches(100, 33), (0.1, 0.2), repeats=2)
    assert calls == [1, None]  # one image, to know the classes


def test_errors():
    with pytest.raises(
        ArgumentError, match=r"sigmas: got \[0.1, -0.1\]; expected finite numbers ≥ 0"
    ):
        noise_robustness(linear(), batches(8), (0.1, -0.1))
    with pytest.raises(ArgumentError, match=r"sigmas: got \[nan\]; expected finite numbers ≥ 0"):
        noise_robustness(linear(), batches(8), (math.nan,))
    with pytest.raises(ArgumentError, match=r"sigmas: got \[\]"):
        noise_robustness(linear(), batches(8), ())
    with pytest.raises(ArgumentError, match=r"repeats: got 0; expected an integer ≥ 1"):
        noise_robustness(linear(), batches(8), repeats=0)
    with pytest.raises(ArgumentError, match=r"batches: got an empty data set"):
        noise_robustness(linear(), batches(8).take(0))
    with pytest.raises(ArgumentError, match=r"batches: got an iterator"):
        noise_robustness(linear(), iter(batches(8)))
    with pytest.raises(ArgumentError, match=r"batches: got integer images; expected float"):
        noise_robustness(linear(), batches(8).map(lambda x, y: (tf.cast(x, tf.int32), y)))
    with pytest.raises(
        ArgumentError, match=r"batches: got a batch that is a EagerTensor; expected"
    ):
        noise_robustness(linear(), batches(8).map(lambda x, y: x))
    with pytest.raises(
        ArgumentError, match=r"batches: got a batch that is a tuple of 3 parts; exp"
    ):
        noise_robustness(linear(), batches(8).map(lambda x, y: (x, y, y)))
    for change, got in (
        (lambda y: tf.cast(y, tf.float32) + 0.5, r"labels that are no whole numbers, such as"),
        (lambda y: tf.one_hot(y, 7, dtype=tf.int32), r"shape \(8, 7\); expected class indices"),
    ):
        with pytest.raises(ArgumentError, match=f"batches: got {got}"):
            noise_robustness(linear(), batches(8).map(lambda x, y, c=change: (x, c(y))))


def test_the_default_noise_is_not_seen_on_pixels_up_to_255():
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    network = keras.Model(inputs, keras.layers.Dense(2)(x))
    images = np.random.default_rng(0).uniform(0, 255, (4, 4, 4, 1)).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((images, [0, 1, 0, 1])).batch(2)
    expected = r"sigmas: .*try sigmas=\(0, 25.5, 51, 76.5, 102\)"
    with pytest.warns(ImageRangeWarning, match=expected) as told:
        noise_robustness(network, batches)
    assert told[0].filename == __file__
    noise_robustness(network, batches, sigmas=[0.0, 51.0])  # warnings are errors
