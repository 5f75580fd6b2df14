"""`evaluation.compare`: maps that tests share, and the data that these are of."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparing_cases import COUNT, FEW, digits, linear, network
from tfgrad import evaluation, saliency
from tfgrad.errors import ArgumentError
from tfgrad.evaluation import compare
from tfgrad.evaluation.comparison import cost


@pytest.fixture(scope="module")
def batches():
    return digits()


def counted(function):
    """A function of (images, classes) that counts the images it is asked about."""

    def maps(x, y):
        maps.images += len(x)
        return function(x, y)

    maps.images = 0
    return maps


@pytest.mark.long
def test_maps_that_tests_share_are_computed_once(batches, monkeypatch):
    monkeypatch.setattr(cost, "_SECONDS", 0)
    # One of each size that warms up, and three.
    model, timed = network(False), (16 + 8) + (16 + 16 + 8)
    gradient = saliency.InputGradient(model)
    for tests in (["pixels", "pixels_most"], ["pixels"]):
        maps = counted(gradient)
        options = dict.fromkeys(tests, FEW)
        found = compare(model, batches, {"counted": maps}, tests, options=options)
        assert maps.images == COUNT + timed
    direct = evaluation.pixel_perturbation(
        model,
        batches,
        lambda x, y: gradient(x),
        (0.2, 0.6),
        score="change of the top probability",
    )
    assert found.measurements["pixels"]["counted"].values == pytest.approx(direct.values)


@pytest.mark.long
def test_half_a_set_of_maps_is_not_taken_for_the_rest(batches):
    """A method that fails once, in the first test's second batch."""
    model, calls = network(False), []
    gradient = saliency.InputGradient(model)

    def once(x, classes):
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("not now")
        return gradient(x, classes)

    asked = ["pixels", "pixels_most"]
    methods = {"once": once, "whole": gradient}
    found = compare(model, batches, methods, asked, options=dict.fromkeys(asked, FEW))
    assert found.failures == {"pixels": {"once": "ValueError: not now"}}
    most = found.measurements["pixels_most"]
    assert most["once"].values == most["whole"].values


@pytest.mark.sample(2)
@pytest.mark.parametrize("types", [("float32", "float64"), ("float64", "float32")])
def test_maps_that_change_their_type_are_refused(batches, types):
    model = network(False)
    gradient = saliency.InputGradient(model)

    def method(x, classes):  # batches are of 16, 16 and 8
        return tf.cast(gradient(x, classes), types[len(x) == 8])

    asked = ["pixels", "pixels_most"]
    found = compare(model, batches, {"m": method}, asked, options=dict.fromkeys(asked, FEW))
    for test in asked:
        assert found.failures[test]["m"].startswith(f"maps: got {types[1]} after {types[0]}; ")


def reshuffled(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=1).batch(16)


def augmented(x, y):
    draws = np.random.default_rng(0)

    def noisy():
        yield (x + draws.uniform(size=x.shape)).astype("float32"), y

    return tf.data.Dataset.from_generator(
        noisy,
        output_signature=(tf.TensorSpec(x.shape, tf.float32), tf.TensorSpec(y.shape, y.dtype)),
    )


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize("changing", [reshuffled, augmented])
def test_images_that_change_between_passes_are_refused(batches, changing):
    x, y = (np.concatenate(parts) for parts in zip(*batches.as_numpy_iterator(), strict=True))
    both = ["pixels", "pixels_most"]
    options = dict.fromkeys(both, FEW)
    with pytest.raises(ArgumentError, match="data: got images that change from pass to pass"):
        compare(network(False), changing(x, y), ["input_gradient"], both, options=options)
    # Maps that are made as the pixels are read belong to them, whatever comes in the next pass.
    one = compare(network(False), changing(x, y), "random", "pixels", options={"pixels": FEW})
    assert not one.failures


@pytest.mark.long
def test_a_fixed_shuffle_is_as_good_as_none(batches):
    fixed = batches.unbatch().shuffle(COUNT, seed=1, reshuffle_each_iteration=False).batch(16)
    both = ["pixels", "pixels_most"]
    found = compare(network(False), fixed, "random", both, options=dict.fromkeys(both, FEW))
    assert not found.failures


@pytest.mark.long
def test_data_that_change_late_are_nobody_s_failure():
    """The control has seen the same images twice, the next method has not."""
    x, passes = np.random.default_rng(0).uniform(size=(8, 4, 4, 1)).astype("float32"), []

    class Late:
        def __iter__(self):
            passes.append(1)
            yield (x + (len(passes) > limit)), np.ones(8, "int32")

    asked, limit = ["pixels", "pixels_most"], math.inf
    options = dict.fromkeys(asked, FEW)
    compare(linear(), Late(), "random", asked, options=options)
    limit, passes = len(passes), []
    with pytest.raises(ArgumentError, match="data: got images that change"):
        compare(linear(), Late(), "input_gradient", asked, options=options)
