"""A few inputs on which something is tried: given ones, or some of the declared shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError

_FREE = 32  # in the place of a size that the network leaves open


def inputs_of(network: Any, data: Any, count: int) -> Any:
    """So many inputs of a network, as a nest of tensors.

    Args:
        network: A built Keras model.
        data: A batch of inputs, a data set of (x, …) batches, or None for drawn ones.
        count: Number of examples, at most.

    Raises:
        ArgumentError: There are none.
    """
    if data is None:
        return tf.nest.map_structure(lambda spec: _drawn(spec, count), _declared(network))
    if isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
        batch = next(iter(data), None)
        data = batch[0] if isinstance(batch, tuple) else batch
    if data is None or any(not np.shape(part) or not len(part) for part in tf.nest.flatten(data)):
        raise ArgumentError("data: got no examples; expected a batch of inputs; try x[:8].")
    # Keras's own structures of inputs hold neither lists of numbers nor data frames.
    return tf.nest.map_structure(lambda part: tf.convert_to_tensor(part[:count]), data)


def _declared(network: Any) -> Any:
    """The inputs that a network declares, a nest of `tf.TensorSpec`."""
    try:  # `Sequential.input` needs a symbolic call, `Functional.inputs` loses the structure
        inputs = network.inputs[0] if isinstance(network, keras.Sequential) else network.input
    except (AttributeError, ValueError, TypeError, IndexError):
        raise ArgumentError(
            f"data: got None; network {network.name!r} does not declare its inputs; expected a "
            "batch of them; try data=x[:8]."
        ) from None
    if isinstance(inputs, Mapping):
        inputs = dict(inputs)
    return tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), inputs)


def _drawn(spec: tf.TensorSpec, count: int) -> tf.Tensor:
    shape = [count, *(n or _FREE for n in spec.shape[1:])]
    if spec.dtype.is_floating:
        return tf.cast(tf.random.stateless_uniform(shape, [0, 1]), spec.dtype)
    if spec.dtype == tf.string:
        return tf.fill(shape, "")
    return tf.zeros(shape, spec.dtype)
