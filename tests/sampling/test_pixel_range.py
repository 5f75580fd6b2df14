"""Bounds of samples that have another scale than the pixels that the network takes."""

import warnings

import keras
import numpy as np
import pytest

from tfgrad import sampling
from tfgrad.errors import ImageRangeWarning


def network(*first):
    layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((4, 4, 1)), *first, *layers])


def test_bounds_of_another_scale_than_the_networks_are_named():
    start = np.full((1, 4, 4, 1), 0.5, "float32")
    takes_bytes = network(keras.layers.Rescaling(1 / 127.5, -1))
    with pytest.warns(ImageRangeWarning, match=r"bounds: got 0 to 1 .* take pixels in \(0.0, 255"):
        sampling.gradient_ascent(takes_bytes, 0, start, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampling.gradient_ascent(takes_bytes, 0, 255 * start, steps=1, bounds=(0, 255))
        sampling.langevin(takes_bytes, 0, start, steps=1, step_size=0.1)  # clips nothing
        sampling.gradient_ascent(network(keras.layers.Rescaling(2.0, -1)), 0, start, steps=1)
        sampling.gradient_ascent(network(), 0, start, steps=1)
