"""Which layer an operation of a traced graph belongs to, read from the calls of the trace."""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfgrad.internal.call_hooks import Handler
from tfgrad.internal.keras_private import flatten_layers

_SCOPE = "tfgrad_call."
# TensorFlow appends `_1` or more to a scope that is opened again.
_MARK = re.compile(rf"(?:^|/){re.escape(_SCOPE)}(\d+)(?:_\d+)?(?=/)")
# Of the whole process: a concrete function that a network calls may keep an earlier trace's marks.
_numbers = itertools.count()


class Owners(Handler):
    """Marks the operations of every layer call, and reads from an operation's name whose it is.

    Each call runs in a name scope that holds its number. The name scopes that Keras opens would not
    do: they differ between its versions, and a bare operation may have the name of a layer.
    TensorFlow repeats the scope of an operation in the names of its gradient's operations, which
    are thereby attributed to the same call.
    """

    def __init__(self, network: keras.layers.Layer) -> None:
        self.network = network
        self._own = flatten_layers(network)
        self._called: dict[int, keras.layers.Layer] = {}

    def layer(
        self,
        layer: keras.layers.Layer,
        proceed: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a call in a scope of its own."""
        number = next(_numbers)
        self._called[number] = self._original(layer)
        with tf.name_scope(f"{_SCOPE}{number}"):
            return proceed(*args, **kwargs)

    def of(self, path: str) -> keras.layers.Layer:
        """The layer whose call is the innermost on the path of a node; else the network."""
        return next(self._callers(path), self.network)

    def holder(self, path: str) -> keras.layers.Layer:
        """The innermost layer on the path of a node that the network keeps; else the network.

        It is another one than `of` gives where a layer makes a layer in its call.
        """
        kept = {id(layer) for layer in self._own}
        return next((layer for layer in self._callers(path) if id(layer) in kept), self.network)

    def _callers(self, path: str) -> Iterator[keras.layers.Layer]:
        """The layers whose calls are on the path of a node, the innermost first."""
        for number in reversed(_MARK.findall(path)):
            if int(number) in self._called:
                yield self._called[int(number)]

    def _original(self, called: keras.layers.Layer) -> keras.layers.Layer:
        """The network's own layer for a copy of it, such as `BiasNoise` makes for a call."""
        own = [layer for layer in self._own if layer.name == called.name]
        if any(layer is called for layer in own):
            return called
        return next((layer for layer in own if type(layer) is type(called)), called)
