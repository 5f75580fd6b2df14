"""The arguments that all axioms reject."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.axiom_cases import GRADIENT, images, relu
from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation import bias_sensitivity, completeness, shift_agreement, weak_dependence
from tfgrad.evaluation.map_tests.built_methods import built

ALL = (completeness, bias_sensitivity, weak_dependence, shift_agreement)


def test_a_type_error_inside_a_method_is_no_wrong_signature():
    def method(model):
        raise TypeError("the method's own words")

    with pytest.raises(TypeError, match="the method's own words"):
        built(method, None)
    with pytest.raises(ArgumentError, match="which does not take a model alone"):
        built(lambda model, more: None, None)


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize("axiom", ALL)
def test_bad_input(axiom):
    network, x = relu(), images()
    refused = [
        ({"images": x[0]}, r"images: got float32 of shape \(6, 6, 2\); expected float images"),
        ({"images": x.astype("int32")}, r"images: got int32 of shape .* expected float images"),
        ({"images": x[..., :1]}, r"images: got shape \(None, 6, 6, 1\); the model takes"),
        ({"method": "fullgrad"}, r"method: got 'fullgrad'; expected a function from a model to"),
        ({"method": lambda m: lambda x, y: x}, r"method: got maps of shape \(6, 6, 6, 2\) for im"),
        ({"target": 3}, r"target: got class 3; the model has 3 logits"),
        ({"batch_size": 0}, r"batch_size: got 0; expected an integer ≥ 1"),
    ]
    for more, message in refused:
        with pytest.raises(ArgumentError, match=message):
            axiom(**{"model": network, "images": x, "method": GRADIENT, **more})
    x[4, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match=r"images: number 4 of 6 holds NaN or infinite pixels"):
        axiom(network, x, GRADIENT)
    nothing = tf.fill([6, 6, 6], np.nan)
    with pytest.raises(DataError, match=r"maps: those of all 6 images are constant, zero, NaN or"):
        axiom(network, images(), lambda m: lambda x, y: nothing)


def test_bad_options():
    network, x = relu(), images()
    for axiom in (bias_sensitivity, weak_dependence):
        with pytest.raises(ArgumentError, match=r"step: got 0; expected a finite number above 0"):
            axiom(network, x, GRADIENT, 0)
    for shift in (np.nan, "left", np.ones(5)):
        with pytest.raises(ArgumentError, match=r"shift: got .*; expected a finite number, or an"):
            shift_agreement(network, x, GRADIENT, shift)
    with pytest.raises(ArgumentError, match=r"shift: got zero, or images of one value; expected "):
        shift_agreement(network, x, GRADIENT, 0.0)
    with pytest.raises(ArgumentError, match=r"shift: got zero, or images of one value; expected "):
        shift_agreement(network, np.ones_like(x), GRADIENT)
    with pytest.raises(
        ArgumentError, match=r"baseline: got .* broadcasts to one image \(6, 6, 2\)"
    ):
        completeness(network, x, GRADIENT, baseline=np.ones(5))
