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


def over_channels(values: tf.Tensor, reduce: str) -> tf.Tensor:
    """The last axis, of channels, reduced: [batch, *positions, channels] → [batch, *positions].

    Args:
        values: The attribution at an input with channels last; one channel if it has none.
        reduce: A key of `REDUCE`.
    """
    return REDUCE[reduce](values, axis=-1)


class ChannelReduced(Method):
    """A method whose terms are shaped like x and whose map is their reduction over channels.

    Args:
        model: See `Method`.
        reduce: Reduction over a pixel's channels, a key of `REDUCE`.
        chunk_size, outputs, channels: See `Method`.
    """

    def __init__(
        self,
        model: Any,
        reduce: str,
        *,
        chunk_size: int | None = None,
        outputs: Any = None,
        channels: str | None = None,
    ) -> None:
        self.reduce = one_of("reduce", reduce, REDUCE)
        super().__init__(model, chunk_size=chunk_size, outputs=outputs, channels=channels)

    def assemble(self, terms: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """The terms with their channels reduced."""
        return over_channels(self.channels_last(terms), self.reduce)

    def options(self) -> dict[str, Any]:
        """`reduce`."""
        return {"reduce": self.reduce}
