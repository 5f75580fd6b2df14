"""Models in the form that tf-keras-vis takes, and its modules."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfgrad.errors import ArgumentError, ModelError


class Listed(keras.Model):
    """The same network as a functional model whose input is a list, as tf-keras-vis passes it."""

    @classmethod
    def of(cls, network: keras.Model) -> Listed:
        """The model around a network's layers."""
        return cls(list(network.inputs), list(network.outputs))

    def against_zero(self, column: int) -> Listed:
        """A model of the same layers that returns the logits [0, f] of one output f."""
        logits = self.outputs[0][:, column : column + 1]
        both = keras.ops.concatenate([keras.ops.zeros_like(logits), logits], -1)
        return type(self)(list(self.inputs), [both])

    def predict(self, x: Any, batch_size: int = 32, **_: Any) -> np.ndarray:
        """The outputs for [images], without the progress bar of Keras's own."""
        (images,) = x
        parts = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
        outputs = [keras.tree.flatten(self([part], training=False)) for part in parts]
        return np.concatenate([np.asarray(logits) for (logits,) in outputs])


def imported(module: str) -> Any:
    """A module of tf-keras-vis.

    Raises:
        ArgumentError: It is not installed.
    """
    try:
        with warnings.catch_warnings():
            # tf-keras-vis imports functions of SciPy, and of its own, by deprecated names.
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(f"tf_keras_vis.{module}")
    except ImportError as error:
        raise ArgumentError(
            f"method: got one of tf-keras-vis, which cannot be imported ({error}); expected the "
            'package to be installed; try pip install "tfgrad[vis]".'
        ) from error


def require_plain(network: keras.Model, dtypes: Sequence[str]) -> None:
    """Reject a network on which tf-keras-vis fails.

    Raises:
        ModelError: It is subclassed, holds another model, does not take images, or computes in
            another dtype than these.
    """
    who, instead = f"model {network.name!r}", "try 'gradcam', which has no such limit."
    if getattr(network, "inputs", None) is None:
        raise ModelError(
            f"{who}: got a subclassed model; expected a functional or Sequential one for "
            f"tf-keras-vis; {instead}"
        )
    inner = next((layer for layer in network.layers if isinstance(layer, keras.Model)), None)
    if inner is not None:
        raise ModelError(
            f"{who}: got a model that holds the model {inner.name!r}; expected none inside it for "
            f"tf-keras-vis; {instead}"
        )
    if len(network.inputs) > 1:
        raise ModelError(
            f"{who}: got {len(network.inputs)} inputs; expected one of images for tf-keras-vis; "
            f"{instead}"
        )
    if len(network.inputs[0].shape) != 4:
        raise ModelError(
            f"{who}: got an input of shape {tuple(network.inputs[0].shape)}; expected images "
            "[batch, height, width, channels] for tf-keras-vis; try 'gradcam', which takes series "
            "and volumes."
        )
    for layer in network.layers:
        if layer.compute_dtype not in dtypes:
            raise ModelError(
                f"{who}: got layer {layer.name!r}, which computes in {layer.compute_dtype}; "
                f"expected {' or '.join(dtypes)} for tf-keras-vis; {instead}"
            )
