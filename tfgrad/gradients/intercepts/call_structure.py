"""What a call is made of: layers in a graph, layers in code, constants among its arguments."""

import keras
import numpy as np
import tensorflow as tf

from tfgrad.gradients.intercepts.tangents import is_floating
from tfgrad.internal.keras_private import arguments_of_nodes, flatten_layers


def has_layers_inside(operation):
    """Whether a call may make others. A cell's calls are steps of its recurrent layer's."""
    if isinstance(operation, keras.layers.RNN) or not isinstance(operation, keras.layers.Layer):
        return False
    if isinstance(type(operation).call, tf.types.experimental.GenericFunction):
        return False  # traced once, perhaps when nobody listened
    return any(layer is not operation for layer in flatten_layers(operation))


def current_graph():
    """The graph being built in this thread; None while running eagerly."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def constants(model):
    """The tensors that a functional model's graph holds as constants."""
    operations = getattr(model, "operations", [])
    flat = [argument for o in operations for argument in arguments_of_nodes(o)]
    return [a for a in flat if is_floating(a)]


def is_array(value):
    """Whether an argument is a constant that is no tensor: an array, or a variable."""
    return isinstance(value, np.ndarray | np.generic | tf.Variable | keras.Variable)
