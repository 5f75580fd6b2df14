"""Which axes of a tensor are positions and which are channels, and tensors laid out by them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def default_axis(rank: int = 4) -> int:
    """The channel axis of a tensor whose network does not tell it.

    Images and volumes follow `keras.config.image_data_format()`; sequences have channels last.
    """
    first = keras.config.image_data_format() == "channels_first"
    return 1 if first and rank > 3 else rank - 1


def channels_last(values: tf.Tensor, axis: int | None) -> tf.Tensor:
    """Values [batch, …] whose channel axis is moved to the end.

    Args:
        values: A tensor of any rank.
        axis: Its channel axis; None adds a last axis of one channel. An axis beyond the last one
            means the last one.
    """
    if axis is None:
        return values[..., tf.newaxis]
    rank = values.shape.rank
    if axis >= rank - 1:
        return values
    return tf.transpose(values, [*(i for i in range(rank) if i != axis), axis])


def channels_at(values: tf.Tensor, axis: int | None) -> tf.Tensor:
    """The inverse of `channels_last`: the last axis moved to its place among the others."""
    if axis is None:
        return tf.squeeze(values, -1)
    rank = values.shape.rank
    if axis >= rank - 1:
        return values
    order = list(range(rank - 1))
    order.insert(axis, rank - 1)
    return tf.transpose(values, order)


def with_shape(values: tf.Tensor, shape: Sequence[Any]) -> tf.Tensor:
    """Values of this shape, which is open where it is None, whatever another shape a graph states.

    TensorFlow gives a tf.cond under a persistent tape the shape of its first branch.
    """
    stated = zip(shape[1:], values.shape[1:], strict=True)
    opened = any(known is None and length is not None for known, length in stated)
    if tf.executing_eagerly() or (values.shape.is_compatible_with(shape) and not opened):
        return values
    unknown = [None] * len(shape)
    return tf.ensure_shape(tf.raw_ops.PlaceholderWithDefault(input=values, shape=unknown), shape)


@dataclasses.dataclass(frozen=True)
class InputAxes:
    """The axes of a network's input.

    Attributes:
        rank: The number of axes, the batch included.
        channels: The channel axis; None if there are no channels, as in series [batch, time],
            tables [batch, features] and grey volumes [batch, depth, height, width].
        certain: Whether the network told it, or it is the convention of images and volumes.
    """

    rank: int
    channels: int | None
    certain: bool = True

    @property
    def positions(self) -> tuple[int, ...]:
        """The axes that are positions, which are those of a map."""
        return tuple(axis for axis in range(1, self.rank) if axis != self.channels)

    def sizes(self, shape: Sequence[Any]) -> tuple[Any, ...]:
        """The lengths of the positions in the shape of an input: the shape of one map."""
        return tuple(shape[axis] for axis in self.positions)

    def channels_last(self, values: tf.Tensor) -> tf.Tensor:
        """Values shaped like the input as [batch, *positions, channels]."""
        return channels_last(values, self.channels)

    def as_given(self, values: tf.Tensor) -> tf.Tensor:
        """Values [batch, *positions, channels] shaped like the input."""
        return channels_at(values, self.channels)
