"""The difference of two classes' logits as a target."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import target_cases
from tests.helpers.target_cases import images, probe, slope_error
from tfgrad.errors import ArgumentError
from tfgrad.targets import Contrast


def value(network, target, x=None, **options):
    return probe(network, images() if x is None else x, **options).score(target).numpy()


def test_two_classes(float64):
    network = target_cases.classifier()
    logits = network(images()).numpy()
    np.testing.assert_array_equal(value(network, Contrast(1, 3)), logits[:, 1] - logits[:, 3])
    expected = [logits[i, a] - logits[i, 2] for i, a in enumerate((0, 1, 3))]
    np.testing.assert_array_equal(value(network, Contrast([0, 1, 3], 2)), expected)


def test_the_strongest_other_class(float64):
    network = target_cases.classifier()
    ranked = np.sort(network(images()).numpy(), 1)
    for open_one in (Contrast(), Contrast([-1, -1, -1], [-1, -1, -1])):
        np.testing.assert_array_equal(value(network, open_one), ranked[:, -1] - ranked[:, -2])
    logits = network(images()).numpy()
    others = np.delete(logits, 1, 1).max(1)
    np.testing.assert_array_equal(value(network, Contrast(1)), logits[:, 1] - others)


def test_gradients_are_differences(float64):
    network, x = target_cases.classifier(), images()
    at = probe(network, x)
    difference = at.input_gradient(2) - at.input_gradient(0)
    np.testing.assert_allclose(at.input_gradient(Contrast(2, 0)), difference, atol=1e-12)
    assert slope_error(network, x, Contrast()) < 1e-7


def test_what_it_is_made_of_is_fixed(float64):
    network, away = target_cases.classifier(), 3 * images(5)
    at = probe(network, images())
    fixed = at.fixed(Contrast())
    np.testing.assert_array_equal(at.score(fixed), at.score(Contrast()))
    assert np.abs(value(network, fixed, away) - value(network, Contrast(), away)).max() > 1e-3


def test_one_logit_of_two_classes(float64):
    network = target_cases.classifier(1)
    logit = network(images()).numpy()[:, 0]
    np.testing.assert_array_equal(value(network, Contrast(1, 0)), 2 * logit)
    np.testing.assert_array_equal(value(network, Contrast()), 2 * np.abs(logit))


def test_a_head_of_several():
    network = target_cases.heads()
    logits = network(images())["class"].numpy()
    expected = logits[:, 3] - logits[:, 0]
    np.testing.assert_allclose(value(network, Contrast(3, 0, output="class")), expected, rtol=1e-5)
    np.testing.assert_allclose(
        probe(network, images()).on("class").score(Contrast(3, 0)), expected, rtol=1e-5
    )


def test_what_comes_with_the_examples():
    assert set(Contrast(1).values) == {"b"} and not Contrast(1, 2).values
    given = Contrast(1, name="why").with_values({"b": [0, 2, 3]})
    assert given.name == "why" and Contrast(1).specs(None)["b"].dtype == tf.int32
    network = target_cases.classifier()
    np.testing.assert_array_equal(value(network, given), value(network, Contrast(1, [0, 2, 3])))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Contrast("cat"), "a: got 'cat'; expected a class index"),
        (lambda: Contrast(0.5), "a: got 0.5; expected a class index"),
        (lambda: Contrast(2, 2), "b: got class 2, which is also a; expected another class"),
        (lambda: Contrast(4), "a: got class 4; expected 0 to 3"),
        (lambda: Contrast(0, [1, 2, 4]), "b: got class indices from 1 to 4; expected 0 to 3, or"),
        (lambda: Contrast(0, [1, 2]), "b: got 2 indices; expected one class for each of 3"),
    ],
)
def test_what_makes_no_sense(make, message):
    network = target_cases.classifier()
    with pytest.raises(ArgumentError, match=message):
        value(network, make())


def test_outputs_without_two_classes():
    numbers = target_cases.classifier(2)
    with pytest.raises(
        ArgumentError, match=r"outputs: got 'regression'.*for a contrast of classes"
    ):
        value(numbers, Contrast(0, 1), outputs="regression")
    with pytest.raises(ArgumentError, match=r"Contrast on an output of shape \(3, 6, 6, 3\)"):
        value(target_cases.unet(), Contrast(0, 1))
    with pytest.raises(ArgumentError, match=r"Contrast on an output of shape \(3, 1\)"):
        value(target_cases.classifier(1), Contrast(), outputs="independent")
