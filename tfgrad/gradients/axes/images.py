"""The axes of what a network takes."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients.axes.calls import analysed
from tfgrad.gradients.axes.formats import InputAxes, default_axis
from tfgrad.gradients.axes.inputs import main_input
from tfgrad.internal.keras_private import (
    arguments_of_nodes,
    flatten_layers,
    is_graph_of_layers,
)

# Bare operations of a functional graph that move axes, by class name.
_MOVING = ("Transpose", "Moveaxis", "Swapaxes", "Einsum", "Reshape", "Flip", "Rot90")


def of_input(network: keras.layers.Layer, x: Any) -> InputAxes:
    """Which axes of a network's input are positions, and which are channels.

    This is found from the first layer or operation that has a data format or acts on features,
    through all permutations of axes before it: [batch, 28, 28] is a series of 28 steps for a
    network that begins with `Conv1D` or a recurrent layer, and a grey image for one that adds an
    axis and begins with `Conv2D`. Where the network does not tell, images and volumes follow
    `keras.config.image_data_format()`, and three axes are [batch, steps, channels], which the
    result calls uncertain.

    Args:
        network: The network.
        x: Its inputs or their specifications, of which only shapes and dtypes are read; of several
            inputs the first one of rank 4 counts, or else the first one of the highest rank.
    """
    flat = tf.nest.flatten(x)
    place = main_input(flat)
    rank = flat[place].shape.rank
    if rank == 2:
        return InputAxes(2, None)
    if rank == 4 and default_axis() == 3 and is_plain(network):
        return InputAxes(4, 3)
    return analysed(network, x).inputs[place]


def channel_axis(network: keras.layers.Layer, x: Any) -> int:
    """The channel axis of the images that a network takes: 1, 2 or 3; see `of_input`.

    Where the network takes no images with channels, it is that of Keras's image data format.
    """
    axes = of_input(network, x)
    return default_axis() if axes.rank != 4 or axes.channels is None else axes.channels


def is_plain(network: keras.layers.Layer) -> bool:
    """Whether a network takes images with channels last, as its layers show without a trace."""
    return all(map(_is_plain, flatten_layers(network)))


def _is_plain(layer: keras.layers.Layer) -> bool:
    kind = type(layer)
    if is_graph_of_layers(layer):
        operations = getattr(layer, "operations", ())
        return not any(type(o).__name__ in _MOVING and not _makes_gates(o) for o in operations)
    if kind.__module__.partition(".")[0] not in ("keras", "tfgrad"):
        return False
    if isinstance(layer, keras.layers.Permute | keras.layers.Lambda | keras.layers.EinsumDense):
        return False
    if any(name in kind.__name__ for name in ("1D", "3D")):  # of series and volumes
        return False
    return getattr(layer, "data_format", None) != "channels_first"


def _makes_gates(operation: keras.Operation) -> bool:
    """Whether it only gives one entry for each channel, [B, C], a position: [B, 1, 1, C]."""
    if type(operation) is not keras.layers.Reshape:
        return False
    one = set(operation.target_shape[:-1]) == {1}
    given = [t for t in arguments_of_nodes(operation) if isinstance(t, keras.KerasTensor)]
    return one and all(len(tensor.shape) == 2 for tensor in given)
