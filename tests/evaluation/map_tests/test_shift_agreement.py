"""Agreement under shifts of the images, on networks whose maps are known."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.axiom_cases import (
    GRADIENT,
    INTEGRATED,
    PRODUCT,
    SHAPE,
    images,
    number,
    relu,
    signed,
)
from tfgrad import saliency
from tfgrad.evaluation import shift_agreement

L = keras.layers


@pytest.mark.usefixtures("float64")
def test_the_gradient_of_a_shifted_function_agrees_and_input_times_gradient_does_not():
    network, x = relu(), images()
    shift = np.linspace(-1, 1, 6)[:, None, None] + np.array([0.5, 2])
    result = shift_agreement(network, x, signed, shift, batch_size=4)
    assert result.value == 1 and number(result, "relative difference") < 1e-7
    result = shift_agreement(network, x, PRODUCT, shift, batch_size=4)
    gradient = GRADIENT(network).explain(tf.constant(x))["gradient"].numpy()
    maps, added = (gradient * x).sum(-1), (gradient * shift).sum(-1)
    norms = [np.linalg.norm(m.reshape(6, -1), axis=1) for m in (added, maps)]
    difference = number(result, "relative difference")
    assert difference == pytest.approx((norms[0] / norms[1]).mean(), rel=1e-5)
    assert result.value < 0.99
    assert (result.direction, result.examples) == ("higher", 6)


@pytest.mark.long
@pytest.mark.usefixtures("float64")
def test_the_shift_has_the_units_of_the_images():
    """That of bytes moves input × gradient as far as that of images in [0, 1] does."""
    network, x = relu(), images()
    scaled = keras.Sequential([keras.Input(SHAPE), L.Rescaling(1 / 255), network])
    small, large = (
        shift_agreement(model, pixels, PRODUCT)
        for model, pixels in ((network, x), (scaled, 255 * x))
    )
    assert small.value == pytest.approx(large.value, rel=1e-6)
    assert small == shift_agreement(network, x, PRODUCT, np.ptp(x))


@pytest.mark.long
def test_a_baseline_that_is_shifted_too_agrees():
    network, x = relu(), images()

    def method(m):
        return INTEGRATED(m, baseline=0.0 if m is network else 1.0)

    assert shift_agreement(network, x, method, 1.0).value > 0.999
    assert shift_agreement(network, x, INTEGRATED, 1.0).value < 0.99


@pytest.mark.long
def test_methods_that_look_inside_work_on_the_shifted_model():
    network, x = relu(), images()
    assert shift_agreement(network, x, saliency.get("gradcam")).value > 0.999
    assert shift_agreement(network, x, saliency.get("fullgrad")).value < 0.999
