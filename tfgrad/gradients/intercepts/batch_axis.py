"""Calls of a network with an output whose first axis is not the batch.

A term belongs to an example by its first axis. Windows cut out of images and stacked, sequences
with the time axis first, or a loss beside an output cannot be terms; their intercepts are counted
with the next call whose first axis is the batch. Shapes alone do not distinguish [batch, …] from
[time, …], so the network is traced with a batch size that no other axis has.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients.intercepts.aside import traced_aside
from tfgrad.gradients.intercepts.tangents import is_differentiable
from tfgrad.internal import call_hooks
from tfgrad.internal.keras_private import flatten_layers

_BATCH = 1009  # a prime; nothing is computed, so size costs nothing
# Bare operations of a functional graph that keep the first axis, by class name.
_IN_PLACE = {
    *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Negative", "Absolute", "Abs"),
    *("Relu", "Relu6", "LeakyRelu", "Silu", "Gelu", "Sigmoid", "Tanh", "Softplus", "Elu", "Exp"),
    *("HardSigmoid", "HardSilu", "Sqrt", "Square", "Power", "Clip", "Cast", "Identity"),
}
_known: weakref.WeakKeyDictionary[Any, dict[Any, Unbatched | None]] = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class Unbatched:
    """Ids of layers and operations with tensors whose first axis is not the batch.

    Attributes:
        outputs: Those with such an output.
        inputs: Those with such an input.
    """

    outputs: frozenset[int] = frozenset()
    inputs: frozenset[int] = frozenset()


def unbatched(network: keras.layers.Layer, x: Any) -> Unbatched:
    """The layers and operations with an output or input whose first axis is not the batch.

    The result is cached as long as the network exists. Networks made only of Keras's own layers
    have none and are not traced.

    Args:
        network: The model.
        x: Its inputs, of which only shapes and dtypes are read.
    """
    if not any(map(_may_move_the_batch, _operations(network))):
        return Unbatched()
    # A network that is written for one batch size fails at another one: its own tells the most.
    own = tf.nest.flatten(x)[0].shape[0]
    found = _cached(network, x, _BATCH) or (own and _cached(network, x, own))
    return found or Unbatched()


def _cached(network: keras.layers.Layer, x: Any, batch: int) -> Unbatched | None:
    specs = tf.nest.map_structure(lambda t: tf.TensorSpec([batch, *t.shape[1:]], t.dtype), x)
    flat = tf.nest.flatten(specs)
    key = tuple((tuple(s.shape), s.dtype.name) for s in flat)
    cache = _known.setdefault(network, {})
    if key not in cache:
        cache[key] = _traced(network, specs, batch)
    return cache[key]


def _operations(network: keras.layers.Layer) -> Iterator[keras.Operation]:
    for layer in flatten_layers(network):
        yield layer
        for operation in getattr(layer, "operations", []):
            if not isinstance(operation, keras.layers.Layer):
                yield operation


def _may_move_the_batch(operation: keras.Operation) -> bool:
    kind = operation.__class__  # the class that `second_order.make_safe` started from
    if not isinstance(operation, keras.layers.Layer):
        return kind.__name__ not in _IN_PLACE
    if kind is keras.layers.Lambda or getattr(operation, "stateful", False):
        return True
    return kind.__module__.partition(".")[0] not in ("keras", "tfgrad")


class _Shapes(call_hooks.Handler):
    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.outputs: set[int] = set()
        self.inputs: set[int] = set()

    def layer(
        self,
        layer: keras.layers.Layer,
        proceed: call_hooks.Proceed,
        args: call_hooks.Args,
        kwargs: call_hooks.Kwargs,
    ) -> Any:
        return self._seen(layer, proceed, args, kwargs)

    def operation(
        self,
        operation: keras.Operation,
        proceed: call_hooks.Proceed,
        args: call_hooks.Args,
        kwargs: call_hooks.Kwargs,
    ) -> Any:
        if isinstance(operation, keras.layers.Layer):
            return proceed(*args, **kwargs)
        return self._seen(operation, proceed, args, kwargs)

    def _seen(
        self,
        operation: keras.Operation,
        proceed: call_hooks.Proceed,
        args: call_hooks.Args,
        kwargs: call_hooks.Kwargs,
    ) -> Any:
        outputs = proceed(*args, **kwargs)
        for structure, found in ((outputs, self.outputs), ((args, kwargs), self.inputs)):
            if any(_moves_the_batch(value, self.batch) for value in tf.nest.flatten(structure)):
                found.add(id(operation))
        return outputs


def _moves_the_batch(value: Any, batch: int) -> bool:
    if not is_differentiable(value):
        return False
    shape = value.shape
    return shape.rank is not None and (shape.rank == 0 or shape[0] not in (batch, None))


def _traced(network: keras.layers.Layer, specs: Any, batch: int) -> Unbatched | None:
    """What one trace tells; None if the network cannot be traced."""
    shapes = _Shapes(batch)
    if not traced_aside(network, specs, lambda: call_hooks.handled(shapes)):
        return None
    return Unbatched(frozenset(shapes.outputs), frozenset(shapes.inputs))
