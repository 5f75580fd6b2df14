"""Reduction of the channels of a pixel-wise attribution to one number per pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import tensorflow as tf

from tfgrad.internal.arguments import one_of
from tfgrad.saliency.base import Method
from tfgrad.saliency.options import MethodOptions

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


def in_float32(values: Any) -> Any:
    """A nest of values in float32."""
    return tf.nest.map_structure(lambda t: tf.cast(t, tf.float32), values)


class ChannelReduced(Method):
    """A method whose terms are shaped like x and whose map is their reduction over channels.

    Args:
        model: See `Method`.
        reduce: Reduction over a pixel's channels, a key of `REDUCE`.
        **options: See `MethodOptions`.
    """

    def __init__(
        self,
        model: Any,
        reduce: str,
        **options: Unpack[MethodOptions],
    ) -> None:
        self.reduce = one_of("reduce", reduce, REDUCE)
        super().__init__(model, **options)

    def assemble(self, terms: Any, x: Any) -> Any:
        """The terms with their channels reduced."""
        laid = self.channels_last(terms)
        return tf.nest.map_structure(lambda values: over_channels(values, self.reduce), laid)

    def options(self) -> dict[str, Any]:
        """`reduce`."""
        return {"reduce": self.reduce}
