"""A small network in the place of every architecture of keras.applications."""

import contextlib
from unittest import mock

import keras

from tfgrad.loading import applications

SIDE = 12


def built(name, weights, image_size, *, include_top=True, pooling=None):
    """What `applications.built` returns, with batch and layer normalisation."""
    x = inputs = keras.Input((*(image_size or (SIDE, SIDE)), 3))
    x = keras.layers.BatchNormalization(name="bn")(keras.layers.Conv2D(4, 3, name="conv")(x))
    x = keras.layers.LayerNormalization(name="norm")(keras.layers.Activation("gelu")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    if include_top:
        x = keras.layers.Dense(1000, name="predictions")(x)
    return keras.Model(inputs, x, name="features")


@contextlib.contextmanager
def in_place():
    """While the context is open, every architecture is this one, for images of SIDE."""
    sides = dict.fromkeys(applications.APPLICATIONS, SIDE)
    with (
        mock.patch.object(applications, "built", built),
        mock.patch.object(applications, "_SIDES", sides),
    ):
        yield
