"""Reduction of the channels of a pixel-wise attribution to one number per pixel."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

REDUCE: dict[str, Callable[..., tf.Tensor]] = {
    "abs_sum": lambda g, axis: tf.reduce_sum(tf.abs(g), axis),
    "sum": tf.reduce_sum,
    "max_abs": lambda g, axis: tf.reduce_max(tf.abs(g), axis),
    "deviation": tf.math.reduce_std,
}


def over_channels(values: tf.Tensor, reduce: str) -> tf.Tensor:
    """The channel axis reduced: [batch, height, width, channels] → [batch, height, width].

    Vectors [batch, features] have no channel axis and keep their shape; each feature is reduced as
    a pixel of one channel.

    Args:
        values: The attribution, shaped like the input.
        reduce: A key of `REDUCE`.
    """
    return REDUCE[reduce](values if values.shape.rank > 2 else values[..., tf.newaxis], axis=-1)
