"""Decoded pixels to floats in [0, 1] of the size that is asked for."""

from __future__ import annotations

import tensorflow as tf

# From this elongation on, the columns are reduced before the rows.
_LONG = 4


def scaled(pixels: tf.Tensor, size: tuple[int, int] | None, highest: float) -> tf.Tensor:
    """Integer pixels up to `highest` as float32 in [0, 1], resized to (height, width) first.

    Resized in the integers' own type: a large image is never held as floats as well.
    """
    if size is not None:
        pixels = _resized(pixels, size)
    return tf.minimum(tf.cast(pixels, tf.float32) / highest, 1.0)


def _resized(pixels: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    # The kernel resizes the rows first and then holds size[0] × width values: gigabytes for an
    # image of few and long rows. With the columns first, the intermediate stays small.
    shape = tf.shape(pixels, tf.int64)
    few_columns = tf.stack([tf.cast(shape[0], tf.int32), size[1]])
    return tf.cond(
        size[0] * shape[1] > _LONG * size[1] * shape[0],
        lambda: tf.image.resize(
            tf.image.resize(pixels, few_columns, antialias=True), size, antialias=True
        ),
        lambda: tf.image.resize(pixels, size, antialias=True),
    )


def luma(image: tf.Tensor) -> tf.Tensor:
    """0.299 R + 0.587 G + 0.114 B, [height, width, 1]."""
    return tf.reduce_sum(image * [0.299, 0.587, 0.114], -1, keepdims=True)
