"""Keras's image data format, and tensors in it."""

from __future__ import annotations

import keras
import tensorflow as tf


def default_axis() -> int:
    """The channel axis of images under `keras.config.image_data_format()`: 1 or 3."""
    return 1 if keras.config.image_data_format() == "channels_first" else 3


def channels_last(values: tf.Tensor, axis: int) -> tf.Tensor:
    """Images or maps [batch, …] whose channel axis is moved to the end.

    Args:
        values: A tensor; one of another rank than 4 is returned unchanged.
        axis: Its channel axis: 1, 2 or 3.
    """
    if axis == 3 or values.shape.rank != 4:
        return values
    return tf.transpose(values, [0, *(i for i in (1, 2, 3) if i != axis), axis])


def channels_at(values: tf.Tensor, axis: int) -> tf.Tensor:
    """The inverse of `channels_last`: the last axis moved to its place among the others."""
    if axis == 3 or values.shape.rank != 4:
        return values
    order = [0, 1, 2]
    order.insert(axis, 3)
    return tf.transpose(values, order)
