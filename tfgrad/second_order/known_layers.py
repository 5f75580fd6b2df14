"""What a trace would find of networks made of Keras's plainest layers, without the trace.

Of a functional or Sequential network of the layers below, with options whose operations are known,
every operation of the network and of its input-gradient is known too. Anything else about a network
(another layer, a subclass, an option, a `call` that was replaced) makes its verdict `None`, and the
network is traced. A test compares these verdicts with those of traces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from tfgrad.internal import keras_private

_LINEAR, _PIECEWISE, _SMOOTH = "linear", "piecewise", "smooth"
_ACTIVATIONS: tuple[tuple[Any, str], ...] = (
    (keras.activations.linear, _LINEAR),
    (keras.activations.relu, _PIECEWISE),
    (keras.activations.relu6, _PIECEWISE),
    (keras.activations.silu, _SMOOTH),
    (keras.activations.gelu, _SMOOTH),
    (keras.activations.sigmoid, _SMOOTH),
    (keras.activations.tanh, _SMOOTH),
)
_PROBABILITIES = (keras.activations.sigmoid, keras.activations.softmax)
_TRAINED = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
)
_BATCH_NORM = keras.layers.BatchNormalization
_MAX_POOLING = (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D)
_MOVING = (
    keras.layers.InputLayer,
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.Concatenate,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Multiply,
    keras.layers.Normalization,
    keras.layers.Rescaling,
    keras.layers.Reshape,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
)
# What a search for probabilities goes through, from the outputs back.
_TRANSPARENT = (
    keras.layers.InputLayer,
    keras.layers.Activation,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.Reshape,
)
_DTYPES = ("float32", "float64")
# The name of a stopped mean, and of what XLA falsifies, in the tables of operations.
MOMENTS, POOLING = "tf.nn.moments", "MaxPoolGrad"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is known.

    Attributes:
        faults: (layer, operation, whether it is wrong under XLA alone), in the order of a graph.
        piecewise_linear: As of `Inspection`.
    """

    faults: tuple[tuple[keras.layers.Layer, str, bool], ...]
    piecewise_linear: bool


def verdict(network: keras.layers.Layer, training: bool) -> Verdict | None:
    """The verdict on a network of float inputs; None if it has to be traced.

    Args:
        network: The network.
        training: The mode of its calls.
    """
    operations = _operations(network)
    if operations is None or not _has_known_end(network):
        return None
    means, poolings, kinds = [], [], set()
    for operation in dict.fromkeys(operations):
        kind = _kind(operation)
        if kind is None:
            return None
        kinds.add(kind)
        if type(operation) in _MAX_POOLING:
            poolings.append((operation, POOLING, True))
        if type(operation) is _BATCH_NORM and training and operation.trainable:
            means.append((operation, MOMENTS, False))
    # The fault of a pooling is in the backward pass, whose graph begins with the last one.
    return Verdict((*means, *reversed(poolings)), _PIECEWISE in kinds and _SMOOTH not in kinds)


def _operations(network: Any) -> list[Any] | None:
    """The operations of a model and of the models in it; None if one is more than a graph."""
    if not keras_private.is_graph_of_layers(network) or _is_replaced(network):
        return None
    if not network.built or not getattr(network, "outputs", None):
        return None
    found = []
    sequential = isinstance(network, keras.Sequential)
    for operation in network.layers if sequential else network.operations:
        if isinstance(operation, keras.Model):
            inner = _operations(operation)
            if inner is None:
                return None
            found += inner
        else:
            found.append(operation)
    return found


def _has_known_end(network: Any) -> bool:
    """Whether each output is made by a layer that shows whether it yields probabilities."""
    for tensor in keras.tree.flatten(network.outputs):
        layer = keras_private.producer(tensor)[0]
        if isinstance(layer, (keras.Model, *_TRANSPARENT)):
            return False
        if any(getattr(layer, "activation", None) is known for known in _PROBABILITIES):
            return False
    return True


def _kind(layer: Any) -> str | None:
    """Which of its operations matter; None if they are not known."""
    of_class = type(layer)
    if not isinstance(layer, keras.layers.Layer) or _is_replaced(layer):
        return None
    if keras_private.is_rematerialised(layer) or getattr(layer, "synchronized", False):
        return None
    if layer.activity_regularizer is not None or layer.compute_dtype not in _DTYPES:
        return None
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return None
    if of_class in _TRAINED:
        return _kind_of_trained(layer)
    if of_class is keras.layers.Activation:
        return _kind_of_function(layer.activation)
    if of_class is keras.layers.ReLU:
        plain = not layer.negative_slope and not layer.threshold and layer.max_value in (None, 6)
        return _PIECEWISE if plain else None
    known = of_class in _MOVING or of_class in _MAX_POOLING or of_class is _BATCH_NORM
    return _LINEAR if known else None


def _kind_of_trained(layer: Any) -> str | None:
    # A grouped convolution is compiled by XLA where Keras calls it on a CPU.
    if getattr(layer, "groups", 1) != 1 or getattr(layer, "padding", None) == "causal":
        return None
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return None
    return _kind_of_function(layer.activation)


def _kind_of_function(activation: Any) -> str | None:
    # A user's callable object may have an equality of its own, and no hash.
    return next((kind for known, kind in _ACTIVATIONS if known is activation), None)


def _is_replaced(layer: keras.layers.Layer) -> bool:
    """Whether an instance has a method of its own in place of its class's."""
    own: Callable[[str], bool] = vars(layer).__contains__
    return any(map(own, ("call", "__call__", "convolution_op", "activation_op")))
