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
