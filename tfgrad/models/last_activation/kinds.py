"""Recognises a softmax or a sigmoid, and what passes values on unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.internal import keras_private
from tfgrad.internal.unchanged_state import unchanged_state

SOFTMAX, SIGMOID, LOG_SIGMOID, IDENTITY = "softmax", "sigmoid", "log_sigmoid", "identity"

# What keras.activations calls them; no other function there is one of these.
_NAMES = {"softmax": SOFTMAX, "sigmoid": SIGMOID, "log_sigmoid": LOG_SIGMOID, "linear": IDENTITY}
# Bare operations of keras.ops, by class.
_OPERATIONS = {
    "Softmax": SOFTMAX,
    "Sigmoid": SIGMOID,
    "LogSigmoid": LOG_SIGMOID,
    **dict.fromkeys(("Cast", "ExpandDims", "Reshape", "Squeeze", "StopGradient"), IDENTITY),
}
_SIZES = (2, 3, 4, 2, 5)  # of noise; softmax over one axis differs from that over another


def applied(kind: str, z: Any) -> tf.Tensor:
    """The activation of a kind at z."""
    functions: dict[str, Callable[..., Any]] = {
        SOFTMAX: tf.nn.softmax,
        SIGMOID: tf.nn.sigmoid,
        LOG_SIGMOID: tf.math.log_sigmoid,
        IDENTITY: tf.identity,
    }
    return functions[kind](z)


def of_function(activation: Any, rank: int) -> str | None:
    """The kind of an activation function, which a layer applies to tensors of a rank.

    Functions of Keras are known by name. Any other one, such as `tf.nn.softmax`, a partial or a
    lambda, is called on noise.
    """
    if activation is None:
        return IDENTITY
    name = getattr(activation, "__name__", "")
    if getattr(keras.activations, name or "-", None) is activation:
        return _NAMES.get(name)
    if isinstance(activation, keras.layers.Layer):
        return of_layer(activation, rank)
    return _probed(activation, rank)


def of_layer(layer: keras.layers.Layer, rank: int) -> str | None:
    """The kind of a layer that consists of an activation, or passes values on."""
    if isinstance(layer, keras.layers.Softmax):
        axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
        return SOFTMAX if [axis % rank for axis in axes] == [rank - 1] else None
    if isinstance(layer, keras.layers.Activation):
        return of_function(layer.activation, rank)
    if isinstance(layer, keras.layers.Reshape | keras.layers.Flatten | keras.layers.Identity):
        return IDENTITY
    stateless = not layer.weights and not keras_private.has_layers(layer)
    if isinstance(layer, keras.layers.Lambda) or (
        stateless and not keras_private.is_of_keras(layer)
    ):
        return _probed(layer, rank)
    return None


def of_operation(operation: Any, rank: int) -> str | None:
    """The kind of an operation of a functional graph, a layer or a bare one."""
    if isinstance(operation, keras.layers.Layer):
        return of_layer(operation, rank)
    if not keras_private.is_own_operation(operation):
        return None
    kind = _OPERATIONS.get(type(operation).__name__)
    if kind == SOFTMAX:
        axis = operation.axis
        return kind if axis is not None and axis % rank == rank - 1 else None
    return kind


def noise(shape: Any, dtype: Any = "float32") -> tf.Tensor:
    """Normal numbers of a shape, whose unknown sizes become small."""
    sizes = [2 if size is None else size for size in shape]
    return tf.cast(np.random.default_rng(0).normal(size=sizes), dtype)


def close(a: Any, b: Any) -> bool:
    """Whether two tensors agree up to the rounding of their dtype."""
    a, b = tf.convert_to_tensor(a), tf.convert_to_tensor(b)
    if a.shape != b.shape or not (a.dtype.is_floating and b.dtype.is_floating):
        return False
    half = tf.float16 in (a.dtype, b.dtype) or tf.bfloat16 in (a.dtype, b.dtype)
    difference = tf.abs(tf.cast(a, tf.float64) - tf.cast(b, tf.float64))
    return (
        bool(tf.reduce_max(difference) <= (2e-2 if half else 1e-5))
        if a.shape.num_elements()
        else False
    )


def _probed(function: Any, rank: int) -> str | None:
    """The kind of a function whose values on noise are those of a kind."""
    if not 1 <= rank <= len(_SIZES):
        return None
    with tf.init_scope(), unchanged_state():
        z = noise(_SIZES[-rank:])
        try:
            y = function(z)
            return next((kind for kind in _NAMES.values() if close(applied(kind, z), y)), None)
        except Exception:  # whatever it needs, it is no function of one tensor
            return None
