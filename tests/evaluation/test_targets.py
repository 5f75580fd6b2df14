"""Tests of maps measure the logit of a class: a method of another target is refused."""

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


def test_a_method_of_another_target_is_refused(network):
    x, y = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype("float32"), np.arange(4) % 3
    own = saliency.InputGradient(network, outputs="exclusive", target=TARGET)
    words = r"got a method built with target=Contrast\(0, 1\); expected one of classes"
    with pytest.raises(ArgumentError, match=f"maps: {words}"):
        evaluation.pixel_perturbation(network, x, own)
    with pytest.raises(ArgumentError, match=f"maps: {words}"):
        evaluation.pixel_perturbation(network, x, saliency.Smooth(own, samples=2))
    with pytest.raises(ArgumentError, match=f"methods: {words}"):
        evaluation.compare(network, [(x, y)], {"own": own}, ["pixels"], images=4)
