"""The variables that a training step would create are created before it is traced.

TensorFlow traces a function that creates variables in its first call again in the second one. The
first step of Keras's `fit` creates those of the optimizer, the loss and the metrics, so that every
step would be traced twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.gradients import output_heads
from tfgrad.internal import keras_private
from tfgrad.models.preprocessors import own_preprocessor
from tfgrad.penalties.examples import unpacked


def build(model: Any, iterator: Any = None, batch: Any = None) -> None:
    """Build the optimizer, the loss and the metrics of a model around a built network.

    What shapes alone do not tell, such as the outputs of a subclassed network, is left to the first
    step, and so is what cannot be built: the step raises the error.

    Args:
        model: A compiled `NetworkWrapper`.
        iterator: What Keras reads batches from, or
        batch: a batch.
    """
    network = model.network
    if model.run_eagerly or own_preprocessor(network) is not None:
        return
    if not all(layer.built for layer in keras_private.flatten_layers(network)):
        return
    optimizer = model.optimizer
    if optimizer is not None and not optimizer.built and model.trainable_variables:
        optimizer.build(model.trainable_variables)
    if not getattr(network, "outputs", None):
        return
    outputs = network.outputs[0] if isinstance(network, keras.Sequential) else network.output
    try:
        labels = _labels(iterator, batch)
        if labels is None:
            return
        outputs = output_heads.labelled(network, keras.tree.map_structure(_spec, outputs), labels)
        if _alike(labels, outputs):
            keras_private.build_loss_and_metrics(model, labels, outputs)
    except Exception:
        return  # The step meets the same error, with the batch at hand.


def _labels(iterator: Any, batch: Any) -> Any:
    if iterator is not None:
        batch = keras_private.batch_specs(iterator)
    labels = unpacked(batch)[1]
    return None if labels is None else keras.tree.map_structure(_spec, labels)


def _spec(value: Any) -> tf.TensorSpec:
    if not hasattr(value, "shape"):
        value = np.asarray(value)
    return tf.TensorSpec(value.shape, value.dtype)


def _alike(labels: Any, outputs: Any) -> bool:
    """Whether there is one output and its labels, or both are given by head."""
    if isinstance(labels, Mapping) and isinstance(outputs, Mapping):
        nested = any(keras.tree.is_nested(v) for v in (*labels.values(), *outputs.values()))
        return set(labels) == set(outputs) and not nested
    return not keras.tree.is_nested(labels) and not keras.tree.is_nested(outputs)
