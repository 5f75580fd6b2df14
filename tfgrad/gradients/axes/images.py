"""The channel axis of a network's images."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients.axes.calls import analysed
from tfgrad.gradients.axes.formats import default_axis
from tfgrad.internal.keras_private import flatten_layers, is_graph_of_layers

# Bare operations of a functional graph that move axes, by class name.
_MOVING = ("Transpose", "Moveaxis", "Swapaxes", "Einsum", "Reshape", "Flip", "Rot90")


def channel_axis(network: keras.layers.Layer, x: Any) -> int:
    """The channel axis of the images that a network takes: 1, 2 or 3.

    It is found from the first layer or operation that has a data format, through all permutations
    of axes before it. Where the network does not tell, `keras.config.image_data_format()` does.

    Args:
        network: The network.
        x: Its inputs or their specifications, of which only shapes and dtypes are read; of several
            inputs the first one of rank 4 counts.
    """
    ranks = [t.shape.rank for t in tf.nest.flatten(x)]
    if 4 not in ranks or (default_axis() == 3 and is_plain(network)):
        return default_axis()
    found = analysed(network, x).inputs[ranks.index(4)]
    return default_axis() if found is None else found


def is_plain(network: keras.layers.Layer) -> bool:
    """Whether a network has channels last everywhere, as its layers show without a trace."""
    return all(map(_is_last, flatten_layers(network)))


def _is_last(layer: keras.layers.Layer) -> bool:
    kind = type(layer)
    if is_graph_of_layers(layer):
        bare = (type(operation).__name__ for operation in getattr(layer, "operations", ()))
        return not any(name in _MOVING for name in bare)
    if kind.__module__.partition(".")[0] not in ("keras", "tfgrad"):
        return False
    if isinstance(layer, keras.layers.Permute | keras.layers.Lambda | keras.layers.EinsumDense):
        return False
    return getattr(layer, "data_format", None) != "channels_first"
