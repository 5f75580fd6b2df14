"""What a network takes: a float input, several inputs, or token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.internal.keras_private import flatten_layers
from tfgrad.saliency.inputs import Inputs


class Taken:
    """The conversion of inputs to what a network takes.

    Args:
        network: The network, or a function.

    Attributes:
        several: Whether it takes several inputs.
    """

    def __init__(self, network: Any) -> None:
        known = isinstance(network, keras.Model)
        self._inputs = Inputs(network) if known else None
        self.several = self._inputs is not None and self._inputs.several
        # A network that does not tell its inputs takes ids where it has an embedding.
        self._ids = known and not getattr(network, "inputs", None) and _embeds(network)

    def is_plain(self, x: Any) -> bool:
        """Whether the network takes one float input, and x is none of ids or a dict."""
        if isinstance(x, Mapping) or self._inputs is None:
            return not isinstance(x, Mapping)
        ids = self._ids and not tf.as_dtype(getattr(x, "dtype", "float32")).is_floating
        return self._inputs.is_plain and not ids

    def tensors(self, x: Any, argument: str) -> Any:
        """A nest of tensors, in the dtypes of a network that takes several, or integers.

        Raises:
            ArgumentError: x is no such nest; `argument` is what the message calls it.
        """
        inputs = self._inputs
        if inputs is not None and (inputs.several or not inputs.is_plain):
            try:
                return inputs.tensors(x)
            except ArgumentError as error:
                raise ArgumentError(_renamed(error, argument)) from error
        if not self._ids and not any(t.dtype.is_floating for t in tf.nest.flatten(x)):
            raise ArgumentError(
                f"{argument}: got integer images; expected float ones as the network takes them, "
                "e.g. tf.cast(x, tf.float32) / 255."
            )
        return x

    def checked(self, x: Any, argument: str) -> Any:
        """`tensors` of inputs that are no plain ones, with finite values, examples first.

        Raises:
            ArgumentError: They do not fit the network.
            DataError: A value is NaN or infinite.
        """
        if self._inputs is None:
            return self.tensors(x, argument)
        try:
            return self._inputs.check(self._inputs.tensors(x))
        except (ArgumentError, DataError) as error:
            raise type(error)(_renamed(error, argument)) from error


def _embeds(network: keras.Model) -> bool:
    return any(isinstance(one, keras.layers.Embedding) for one in flatten_layers(network))


def _renamed(error: Exception, argument: str) -> str:
    return f"{argument}: {str(error).removeprefix('x: ')}"
