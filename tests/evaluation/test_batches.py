"""What all tests of a trained network refuse of their data, in the same words."""

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad import saliency
from tfgrad.errors import ArgumentError, DataError, ModelError, NonFiniteError
from tfgrad.evaluation import (
    density_ratios,
    energy_share,
    noise_robustness,
    pixel_perturbation,
    transfer_bound,
    weak_dependence,
)

SHAPE = (4, 4, 1)
TESTS = {
    "noise": functools.partial(noise_robustness, sigmas=(0.0,), repeats=1),
    "density": functools.partial(density_ratios, sigmas=(0.1,)),
    "pixels": functools.partial(pixel_perturbation, maps="random", fractions=(0.5,)),
    "energy": functools.partial(energy_share, mask=np.eye(4)),
}
EVERY_TEST = pytest.mark.parametrize("test", TESTS.values(), ids=TESTS)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    x = keras.Input(SHAPE)
    return keras.Model(x, keras.layers.Dense(4)(keras.layers.Flatten()(x)))


def images(n=6, shape=SHAPE):
    return np.random.default_rng(0).uniform(0.1, 1, (n, *shape)).astype("float32")


def labels(n=6):
    return np.arange(n) % 4


WRONG = {
    "no data set": (3, "got a int; expected a data set of"),
    "one label": (
        [(images(), labels(1))],
        r"got images of shape \(6, 4, 4, 1\) with labels of shape \(1,\); expected one label for",
    ),
    "five labels": (
        [(images(), labels(5))],
        r"labels of shape \(5,\); expected one label for each",
    ),
    "a label": ([(images(), 3)], r"labels of shape \(\); expected one label for each image"),
    "no labels": ([(images(), None)], r"got a pair \(ndarray, NoneType\); expected float images"),
    "size": (
        [(images(6, (5, 4, 1)), labels())],
        r"got shape \(None, 5, 4, 1\); the network takes \(None, 4, 4, 1\)",
    ),
    "channels": (
        [(images(6, (4, 4, 3)), labels())],
        r"got shape \(None, 4, 4, 3\); the network takes \(None, 4, 4, 1\)",
    ),
    "another size": (
        [(images(), labels()), (images(6, (4, 5, 1)), labels())],
        r"float32 \(None, 4, 5, 1\).* after .*float32 \(None, 4, 4, 1\)",
    ),
    "another type": (
        [(images(), labels()), (images().astype("float64"), labels())],
        r"float64 \(None, 4, 4, 1\).* after .*float32 \(None, 4, 4, 1\)",
    ),
    "no end": (
        tf.data.Dataset.from_tensors((images(), labels())).repeat(),
        "got a data set without end; expected a finite one",
    ),
}


@EVERY_TEST
@pytest.mark.parametrize(("batches", "message"), WRONG.values(), ids=WRONG)
def test_data_that_are_no_batches_of_images_and_labels(test, network, batches, message):
    with pytest.raises(ArgumentError, match=f"^batches: .*{message}"):
        test(network, batches)


@pytest.mark.long
@pytest.mark.diagonal
@EVERY_TEST
@pytest.mark.parametrize("wrong", [-1, 4])
def test_labels_that_are_no_classes(test, network, wrong):
    """Also where the network's own description tells no number of classes."""

    class Subclass(keras.Model):
        def call(self, x):
            return network(x)

    y = labels()
    y[0] = wrong
    low, high = min(wrong, 0), max(wrong, 3)
    message = rf"batches: got labels from {low} to {high}; the network has 4 logits, so .* 0 to 3"
    for one in (network, Subclass()):
        with pytest.raises(DataError, match=message):
            test(one, [(images(), labels()), (images(), y)])


def test_labels_that_are_not_read_may_be_any(network):
    unknown, known = ([(images(), y)] for y in (np.full(6, -1), labels()))
    for test in (TESTS["density"], TESTS["energy"]):
        assert test(network, unknown, target=2) == test(network, known, target=2)


@pytest.mark.sample(3)
@EVERY_TEST
def test_batches_without_images_count_for_nothing(test, network):
    empty = (images(0), labels(0))
    plain = [(images(), labels())]
    assert test(network, [empty, *plain, empty]) == test(network, plain)


@pytest.mark.sample(3, start=1)
@EVERY_TEST
@pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning")
def test_a_dict_of_one_output_is_that_output(test, network):
    named = keras.Model(network.input, {"logits": network.output})
    batches = [(images(), np.arange(6) % 4)]
    assert test(named, batches).values == test(network, batches).values


@pytest.mark.long
def test_maps_of_a_dict_of_one_output(network):
    named = keras.Model(network.input, {"logits": network.output})
    shares = [weak_dependence(m, images(), saliency.InputGradient) for m in (named, network)]
    assert shares[0].values == shares[1].values


@EVERY_TEST
def test_several_outputs_are_refused(test):
    x = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(x)
    heads = {name: keras.layers.Dense(4)(flat) for name in ("a", "b")}
    with pytest.raises(ModelError, match=r"got 2 outputs, heads 'a', 'b'"):
        test(keras.Model(x, heads), [(images(), labels())])


@pytest.mark.long
@EVERY_TEST
@pytest.mark.parametrize("where", ["bias", "pixel"])
def test_logits_that_are_not_finite(test, network, where):
    """A NaN is no wrong answer but none."""
    x, broken = images(), keras.models.clone_model(network)
    kernel, bias = network.get_weights()
    if where == "pixel":
        x[2] = math.nan
    else:
        bias = np.full_like(bias, math.nan)
    broken.set_weights([kernel, bias])
    image, count = (2, 1) if where == "pixel" else (0, 6)
    message = rf"of image {image} are NaN or infinite, as of {count} of 6 images"
    with pytest.raises(NonFiniteError, match=message):
        test(broken, [(x, labels())])


def test_a_transfer_bound_needs_data_with_an_end(network):
    endless = tf.data.Dataset.from_tensors(images()).repeat()
    with pytest.raises(ArgumentError, match=r"target: got a data set without end; expected a fin"):
        transfer_bound(network, network, images(), endless)
