"""Models and data that `evaluation.compare` is tried on."""

import keras
import numpy as np

from tfgrad import data

L = keras.layers
COUNT = 40
FEW = {"fractions": (0.2, 0.6)}


def digits():
    """Batches of 16, 16 and 8."""
    return data.pipeline(data.load("digits", f"test[:{COUNT}]"), 16, training=False)


def network(feature_maps=True):
    keras.utils.set_random_seed(0)
    first = (
        [L.Conv2D(4, 3, activation="relu", bias_initializer="normal"), L.Flatten()]
        if feature_maps
        else [L.Flatten()]
    )
    return keras.Sequential([keras.Input((8, 8, 1)), *first, L.Dense(10)])


def linear():
    """f_1 = Σ wx, f_0 = 0, w ≥ 0: without pixels k, f_1 falls by their w x exactly."""
    weights = np.random.default_rng(0).uniform(size=(16, 1)).astype("float32")
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), L.Flatten(), L.Dense(2, use_bias=False, dtype="float32")]
    )
    model.set_weights([np.concatenate([0 * weights, weights], 1)])
    return model
