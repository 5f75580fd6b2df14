"""The values of one input that a map ranks and that a test replaces; masked steps are left."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.evaluation.map_tests import pixel_removal
from tfgrad.evaluation.parts import Part
from tfgrad.internal.arguments import is_integer

MOST, LEAST = "most", "least"


class Replacement:
    """Inputs, and what their maps rank of one of them; to be made in a graph.

    Args:
        network: The network.
        x: Its inputs, a nest of tensors.
        saliency: The maps of one of them, [batch, *positions].
        part: Which one.
        fill: The replacement; see `pixel_removal.filling`. Of token ids one id.

    Attributes:
        size: The number of positions that can be replaced: int32, a scalar, or one for each example
            if some are masked, to be broadcast against the maps.
        constant: Whether each map has one value at all of them, bool [batch].

    Raises:
        ArgumentError: `fill` does not fit the input.
    """

    def __init__(self, network: Any, x: Any, saliency: tf.Tensor, part: Part, fill: Any) -> None:
        self._x, self._part, self._saliency = x, part, saliency
        own = part.of(x)
        self._axes = part.axes(network, x, saliency)
        if part.of_ids:
            self._value = tf.cast(_id(fill), own.dtype)
        else:
            self._value = pixel_removal.filling(own, fill, self._axes)
        self._visible = part.visible(network, x)
        self.size = tf.reduce_prod(tf.shape(saliency)[1:])
        self.constant = pixel_removal.constant_maps(saliency, self._visible)
        if self._visible is not None:
            positions = range(1, saliency.shape.rank)
            count = tf.cast(self._visible, tf.int32)
            self.size = tf.reduce_sum(count, positions, keepdims=True)

    def order(self, first: str) -> tf.Tensor:
        """The place of each position in the order of replacement, int32 like the maps.

        Args:
            first: `LEAST` or `MOST` salient.
        """
        values = self._saliency
        if self._visible is None:
            rank = pixel_removal.ranks(values)
            return self.size - 1 - rank if first == MOST else rank
        # Masked steps come last, behind any size.
        rank = pixel_removal.ranks(tf.where(self._visible, values, values.dtype.max))
        rank = self.size - 1 - rank if first == MOST else rank
        return tf.where(self._visible, rank, tf.reduce_prod(tf.shape(values)[1:]))

    def at(self, fraction: tf.Tensor, order: tf.Tensor) -> Any:
        """The inputs without the first round(fraction · size) of an `order`."""
        return self.without(pixel_removal.pixels_in(fraction, self.size), order)

    def share(self, count: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
        """The share of positions that `without` replaces, float32 [batch]."""
        gone, positions = tf.cast(order < count, tf.float32), range(1, order.shape.rank)
        if self._visible is None:
            return tf.reduce_mean(gone, positions)
        size = tf.cast(tf.maximum(tf.reshape(self.size, [-1]), 1), tf.float32)
        return tf.reduce_sum(gone, positions) / size

    def without(self, count: tf.Tensor, order: tf.Tensor) -> Any:
        """The inputs without the first `count` positions of an `order`."""
        own = self._part.of(self._x)
        value = pixel_removal.removed(own, order, count, self._value, self._axes)
        return self._part.replaced(self._x, value)


def _id(fill: Any) -> int:
    value = fill.item() if isinstance(fill, np.generic) else fill
    if not is_integer(value) or value < 0:
        raise ArgumentError(
            f"fill: got {fill!r} for token ids; expected the id ≥ 0 that takes the place of one, "
            "such as that of padding or of a mask token; try fill=0."
        )
    return int(value)
