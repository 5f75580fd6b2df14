"""Tests of maps of targets that are no classes: values, contradictions, and what is refused."""

import keras
import numpy as np
import pytest

from tfgrad import evaluation, saliency, targets
from tfgrad.errors import ArgumentError

TARGET = targets.Contrast(0, 1)


@pytest.fixture(scope="module")
def network():
    image = keras.Input((4, 4, 1))
    return keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))


def test_what_is_of_classes_alone_says_which_test_works(network):
    x, y = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype("float32"), np.arange(4) % 3
    own = saliency.InputGradient(network, outputs="exclusive", target=TARGET)
    words = r"got a method built with target=Contrast\(0, 1\); expected one of classes, .*; try .*"
    for method in (own, saliency.Smooth(own, samples=2)):
        with pytest.raises(ArgumentError, match=f"maps: {words}pixel_perturbation"):
            evaluation.class_flip(network, [(x, y)], method, 0, 1)
    with pytest.raises(ArgumentError, match=r"tests: got 'class_flip', .* try 'pixels_most'"):
        evaluation.compare(network, [x], {"own": own}, ["class_flip"], images=4)


def two_heads(activation=None):
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 1))
    hidden = keras.layers.Conv2D(3, 3, activation="relu", bias_initializer="normal")(image)
    flat = keras.layers.Flatten()(hidden)
    heads = {"price": keras.layers.Dense(1, bias_initializer="normal")(flat)}
    heads["class"] = keras.layers.Dense(2, activation)(flat)
    return keras.Model(image, heads), keras.Model(image, heads["price"])


METHODS = {
    "completeness": lambda f, x, m, **o: evaluation.completeness(f, x, m, **o),
    "biases": lambda f, x, m, **o: evaluation.bias_sensitivity(f, x, m, draws=1, **o),
    "regions": lambda f, x, m, **o: evaluation.weak_dependence(f, x, m, **o),
    "shift": lambda f, x, m, **o: evaluation.shift_agreement(f, x, m, 0.5, **o),
}


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "completeness" else pytest.mark.slow)
        for name in METHODS
    ],
)
def test_a_target_is_measured_as_the_only_output_of_a_regression(name):
    """One of two heads, of which the other ends in a softmax, as the network of that head alone."""
    several, one = two_heads("softmax")
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype("float32")
    test, price = METHODS[name], targets.Output("price")
    expected = test(one, x, saliency.InputTimesGradient, outputs="regression")
    found = [
        test(several, x, saliency.InputTimesGradient, target=price),
        test(several, x, lambda f: saliency.InputTimesGradient(f, target=price), target=price),
    ]
    for measurement in found:
        np.testing.assert_allclose(measurement.values, expected.values, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_choices_are_made_at_the_images_as_they_came():
    """Of a contrast with the runner-up, by which classes of each image."""
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 1))
    network = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype("float32")
    order = np.argsort(-network(x).numpy(), 1)
    asked = []

    def method(model):
        def maps(images, target):
            asked.append(target)
            return saliency.InputTimesGradient(model, outputs="exclusive")(images, target)

        return maps

    made, told = (
        evaluation.completeness(
            *(network, x, method), target=t, baseline=0.5, batch_size=2, outputs="exclusive"
        )
        for t in (targets.Contrast(), targets.Contrast(order[:, 0], order[:, 1]))
    )
    assert made.value == pytest.approx(told.value, rel=1e-6)
    for i, target in enumerate(asked):
        rows = order[2 * (i % 3) : 2 * (i % 3) + 2]
        assert np.array_equal(target.a, rows[:, 0]) and np.array_equal(target.b, rows[:, 1])
    with pytest.raises(ArgumentError, match=r"target: got 3 values 'a' of .* for 5 examples"):
        evaluation.completeness(network, x, method, target=targets.Contrast([0, 1, 2], [1, 2, 0]))


def test_contradictions_are_refused(network):
    x = np.zeros((2, 4, 4, 1), "float32")

    def method(model):
        return saliency.InputGradient(model, target=TARGET)

    for target, words in (
        (
            targets.Contrast(1, 2),
            r"got Contrast\(1, 2\) for maps of a method built with target=Con",
        ),
        (1, r"target: got a class for a method built with target=Contrast\(0, 1\)"),
    ):
        with pytest.raises(ArgumentError, match=words):
            evaluation.completeness(network, x, method, target=target, outputs="exclusive")
