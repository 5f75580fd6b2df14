"""Images that are made for a class have the range of pixels that the network takes."""

import keras
import pytest

from tfgrad import saliency
from tfgrad.errors import ImageRangeWarning


def test_a_value_range_of_another_scale_is_named():
    pytest.importorskip("tf_keras_vis")
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 3)(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    with pytest.warns(ImageRangeWarning, match=r"value_range: got 0 to 1 .*pixels in \(0.0, 255"):
        saliency.activation_maximization(model, [0], steps=1)
    saliency.activation_maximization(model, [0], steps=1, value_range=(0, 255))
