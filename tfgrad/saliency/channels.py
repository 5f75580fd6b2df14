"""Reduction of the channels of a pixel-wise attribution to one number per pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfgrad.internal.arguments import one_of
from tfgrad.saliency.base import Method

REDUCE: dict[str, Callable[..., tf.Tensor]] = {
    "abs_sum": lambda g, axis: tf.reduce_sum(tf.abs(g), axis),
    "sum": tf.reduce_sum,
    "max_abs": lambda g, axis: tf.reduce_max(tf.abs(g), axis),
    "deviation": tf.math.reduce_std,
}


def over_channels(values: tf.Tensor, reduce: str, axis: int = -1) -> tf.Tensor:
    """The channel axis reduced: [batch, height, width, channels] → [batch, height, width].

    Vectors [batch, features] have no channel axis and keep their shape; each feature is reduced as
    a pixel of one channel.

    Args:
        values: The attribution, shaped like the input.
        reduce: A key of `REDUCE`.
        axis: The channel axis of images, of rank 4; sequences have theirs last.
    """
    if values.shape.rank < 3:
        values = values[..., tf.newaxis]
    return REDUCE[reduce](values, axis=axis if values.shape.rank == 4 else -1)


class ChannelReduced(Method):
    """A method whose terms are shaped like x and whose map is their reduction over channels.

    Args:
        model: See `Method`.
        reduce: Reduction over a pixel's channels, a key of `REDUCE`.
        chunk_size, outputs: See `Method`.
    """

    def __init__(
        self, model: Any, reduce: str, *, chunk_size: int | None = None, outputs: Any = None
    ) -> None:
        self.reduce = one_of("reduce", reduce, REDUCE)
        super().__init__(model, chunk_size=chunk_size, outputs=outputs)

    def assemble(self, terms: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """The terms with their channels reduced."""
        return over_channels(terms, self.reduce, self.channel_axis(terms))

    def options(self) -> dict[str, Any]:
        """`reduce`."""
        return {"reduce": self.reduce}
