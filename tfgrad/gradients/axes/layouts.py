"""Values shaped like what a network's calls return, laid out as maps with channels last."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients.axes.calls import Call, NetworkAxes, analysed
from tfgrad.gradients.axes.formats import InputAxes, channels_last, default_axis, with_shape
from tfgrad.gradients.axes.images import is_plain, of_input
from tfgrad.gradients.axes.labels import Grid
from tfgrad.internal import call_hooks


class Layouts:
    """The layouts of the calls of one network at images of one size.

    Args:
        network: The network.
        x: Its inputs or their specifications, of which only shapes and dtypes are read.
        layout: The axes of the input, if the caller knows them; None for what the network tells.

    Attributes:
        input: The axes of the input.
        plain: Whether every tensor with the rank of the input is a map with channels last.
    """

    def __init__(
        self, network: keras.layers.Layer, x: Any, layout: InputAxes | None = None
    ) -> None:
        self._network, self._x = network, x
        self.input = of_input(network, x) if layout is None else layout
        self.plain = default_axis() == 3 and self.input.rank == 4 and is_plain(network)

    @property
    def _axes(self) -> NetworkAxes:
        return analysed(self._network, self._x)

    @property
    def grids(self) -> dict[int, Grid]:
        """{number of tokens: their grid}; empty if no tokens were seen to be made of a map."""
        return self._axes.grids

    def steps_of(self, name: str, values: tf.Tensor) -> tf.Tensor:
        """Values [B, n, …] shaped like a call's output, of those tokens that are steps of a series.

        Args:
            name: As of `map_of`, of a call that takes and returns as many tokens.
            values: The values.
        """
        call = self._call(name.partition("/")[0], values)
        if call is None or call.joined is None:
            return values
        first, count = call.joined
        return values[:, first : first + count]

    def map_of(self, name: str, values: tf.Tensor) -> tf.Tensor | None:
        """Values shaped like a call's output as [batch, *positions, channels].

        Args:
            name: Name of the call, also with the suffix of one of its terms: `conv/activation`.
            values: The values.

        Returns:
            The values with channels last; None if the output is no feature map, as attention scores
            are. A call that the trace of the network has not seen counts as a feature map if it has
            as many axes as the input and its channels.
        """
        if self.plain:
            return values
        call = self._call(name.partition("/")[0], values)
        if call is None:
            rank = len(self.input.positions) + 2
            return channels_last(values, default_axis(rank)) if values.shape.rank == rank else None
        if call.features is None:
            return None
        assert call.shape is not None  # what has features is one tensor
        return call.features.laid_out(with_shape(values, call.shape))

    def _call(self, name: str, values: tf.Tensor) -> Call | None:
        """The call of the name, or one of the same layer, whose output has the values' shape."""
        calls = self._axes.calls
        layer = call_hooks.layer_of(name)
        own = [calls[name]] if name in calls else []
        own += [call for call in calls.values() if call_hooks.layer_of(call.name) == layer]
        shape = values.shape[1:]
        return next(
            (c for c in own if c.shape is not None and shape.is_compatible_with(c.shape[1:])), None
        )
