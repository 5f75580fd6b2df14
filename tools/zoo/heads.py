"""Small parts that turn what a package builds into a classifier with logits [batch, classes]."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

L = keras.layers
CLASSES = 3


def classifier(
    shape: Sequence[int | None], body: Callable[[Any], Any], name: str = "zoo"
) -> keras.Model:
    """A model of one input: `body`, the mean over positions, and a dense layer.

    Args:
        shape: Shape of one input.
        body: A layer, a model or a function from the symbolic input to features
            [batch, …, channels], or to a dict or list of them, of which each is averaged.
        name: Name of the model.
    """
    inputs = keras.Input(tuple(shape))
    outputs = body(inputs)
    return keras.Model(inputs, logits(outputs), name=name)


def logits(outputs: Any) -> Any:
    """Logits from features, or from a nest of features."""
    means = [mean(t) for t in keras.tree.flatten(outputs) if "float" in str(t.dtype)]
    joined = means[0] if len(means) == 1 else L.Concatenate()(means)
    return L.Dense(CLASSES, name="zoo_head")(joined)


def mean(features: Any) -> Any:
    """The mean over all positions of features [batch, …, channels]."""
    rank = len(features.shape)
    if rank == 2:
        return features
    pool = {3: L.GlobalAveragePooling1D, 4: L.GlobalAveragePooling2D, 5: L.GlobalAveragePooling3D}
    if rank not in pool:
        channels = features.shape[-1]
        positions = math.prod(features.shape[1:-1])
        return L.GlobalAveragePooling1D()(L.Reshape((positions, channels))(features))
    return pool[rank]()(features)


def normal(shape: Sequence[int], seed: int = 1) -> np.ndarray:
    """Two inputs of standard normal numbers, of the current float type."""
    return np.random.default_rng(seed).normal(size=(2, *shape)).astype(keras.config.floatx())


def pixels(shape: Sequence[int], high: float = 1.0, seed: int = 1) -> np.ndarray:
    """Two images of numbers from 0 to `high`, of the current float type."""
    random = np.random.default_rng(seed)
    return random.uniform(0, high, size=(2, *shape)).astype(keras.config.floatx())
