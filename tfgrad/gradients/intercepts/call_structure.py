"""A call: its arguments, the layers inside it, and the constants that it takes."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.gradients.intercepts.tangents import differentiable, is_differentiable
from tfgrad.internal import call_hooks
from tfgrad.internal.keras_private import arguments_of_nodes, flatten_layers

# Functional models do not change their operations.
_large: weakref.WeakKeyDictionary[keras.Model, bool] = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer or operation: `proceed(*args, **kwargs)` makes it."""

    name: str
    operation: Any
    proceed: call_hooks.Proceed
    args: call_hooks.Args
    kwargs: call_hooks.Kwargs

    @property
    def inputs(self) -> list[tf.Tensor]:
        """The floating and complex tensors among the arguments, each once."""
        return differentiable((self.args, self.kwargs))

    @property
    def inputs_with_repeats(self) -> list[tf.Tensor]:
        """Those among the arguments, as often as they are there."""
        return [a for a in tf.nest.flatten((self.args, self.kwargs)) if is_differentiable(a)]

    def run(self) -> Any:
        """Make the call."""
        return self.proceed(*self.args, **self.kwargs)

    def at(self, tensor: tf.Tensor) -> Call:
        """The same call with another tensor in place of its only float input."""
        args, kwargs = tf.nest.map_structure(
            lambda a: tensor if is_differentiable(a) else a, (self.args, self.kwargs)
        )
        return dataclasses.replace(self, args=args, kwargs=kwargs)


def has_layers_inside(operation: keras.Operation) -> bool:
    """Whether a call may make others.

    A recurrent layer's call does not: the calls of its cell are steps of it.
    """
    if isinstance(operation, keras.layers.RNN) or not isinstance(operation, keras.layers.Layer):
        return False
    if isinstance(type(operation).call, tf.types.experimental.GenericFunction):
        return False  # traced once, perhaps while no hook was active
    return any(layer is not operation for layer in flatten_layers(operation))


def is_quantised(operation: keras.Operation) -> str | None:
    """The mode in which a layer without others is quantised ("int8", …); None if it is not."""
    mode = getattr(operation, "quantization_mode", None)
    return mode if mode and not has_layers_inside(operation) else None


def constants(model: keras.Model) -> list[tf.Tensor]:
    """The tensors that a functional model's graph contains as constants."""
    operations = getattr(model, "operations", [])
    flat = [argument for o in operations for argument in arguments_of_nodes(o)]
    return [a for a in flat if is_differentiable(a)]


def has_large_constants(model: keras.Model) -> bool:
    """Whether bare operations of a functional model take finite constants of 1e4 and more.

    Such constants (−1e9 in place of −∞) hide scores: float32 adds a score to them without a trace.
    The terms of these operations would be as large, and leave nothing but rounding where they
    cancel, as in a row of scores that is masked as a whole.
    """
    if model not in _large:
        _large[model] = any(
            _is_large(value)
            for o in getattr(model, "operations", [])
            if not isinstance(o, keras.layers.Layer)
            for value in (*arguments_of_nodes(o), getattr(o, "constant_values", None))
        )
    return _large[model]


def _is_large(value: Any) -> bool:
    if isinstance(value, tf.Tensor):
        value = tf.get_static_value(value)
    if isinstance(value, bool) or not isinstance(value, int | float | np.ndarray | np.generic):
        return False
    array = np.abs(np.asarray(value))
    if array.dtype.kind not in "iuf":
        return False
    return bool(np.any(array[np.isfinite(array)] >= 1e4))


def is_array(value: Any) -> bool:
    """Whether an argument is a constant other than a tensor: an array, or a variable."""
    return isinstance(value, np.ndarray | np.generic | tf.Variable | keras.Variable)
