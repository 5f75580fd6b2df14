"""Augmentation of images: mirroring and shifting, as a function of random numbers per example."""

from __future__ import annotations

import tensorflow as tf

FLIP = "flip"  # mirroring alone


def draws(key: tf.Tensor, examples: int, augment: bool | str) -> tf.Tensor:
    """The random numbers that augment each example, [examples, 3] in [0, 1).

    One row per example, not per position in an epoch: a row depends on the key and the example
    alone.

    Args:
        key: A stateless seed [2].
        examples: The number of examples.
        augment: True, or `FLIP` for numbers that shift no image.
    """
    uniform = tf.random.stateless_uniform([examples, 3], key)
    if augment == FLIP:
        uniform = tf.concat([uniform[:, :1], tf.fill([examples, 2], 0.5)], axis=1)
    return uniform


def flip_and_shift(images: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Mirror and shift each image of a batch.

    Args:
        images: Batch [batch, height, width, channels] of any type.
        uniform: [batch, 3] in [0, 1). An image is mirrored left-right if the first number is below
            one half. The second (third) is its position between the largest shift down (right) and
            the largest shift up (left), side // 8 pixels each.

    Returns:
        Images of the same shape and type; uncovered pixels are 0.
    """
    height, width = images.shape[1:3]
    pad_y, pad_x = height // 8, width // 8
    padded = tf.pad(images, [[0, 0], [pad_y, pad_y], [pad_x, pad_x], [0, 0]])
    top = tf.cast(uniform[:, 1] * (2 * pad_y + 1), tf.int32)
    left = tf.cast(uniform[:, 2] * (2 * pad_x + 1), tf.int32)
    across = tf.range(width)
    mirrored = uniform[:, :1] < 0.5
    columns = left[:, None] + tf.where(mirrored, width - 1 - across, across)
    rows = top[:, None] + tf.range(height)
    rows_kept = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(rows_kept, columns, axis=2, batch_dims=1)
