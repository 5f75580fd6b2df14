"""What a call is made of: layers in a graph, layers in code, constants among its arguments."""

import keras
import numpy as np
import tensorflow as tf

from tfgrad.gradients.intercepts.tangents import is_floating

# Models whose own `call` these define pass outputs from layer to layer and do nothing else.
_GRAPHS_OF_LAYERS = ("keras.src.models.functional", "keras.src.models.sequential")


def has_layers_inside(operation):
    """Whether a call may make others. A cell's calls are steps of its recurrent layer's."""
    if isinstance(operation, keras.layers.RNN) or not isinstance(operation, keras.layers.Layer):
        return False
    if isinstance(type(operation).call, tf.types.experimental.GenericFunction):
        return False  # traced once, perhaps when nobody listened
    return any(layer is not operation for layer in operation._flatten_layers())


def current_graph():
    """The graph being built in this thread; None while running eagerly."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def is_graph_of_layers(operation):
    """Whether a model's call only passes outputs from layer to layer."""
    return isinstance(operation, keras.Model) and (
        type(operation).call.__module__ in _GRAPHS_OF_LAYERS
    )


def constants(model):
    """The tensors that a functional model's graph holds as constants."""
    flat = [
        argument
        for operation in getattr(model, "operations", [])
        for node in operation._inbound_nodes
        for argument in tf.nest.flatten((node.arguments.args, node.arguments.kwargs))
    ]
    return [a for a in flat if is_floating(a)]


def is_array(value):
    """Whether an argument is a constant that is no tensor: an array, or a variable."""
    return isinstance(value, np.ndarray | np.generic | tf.Variable | keras.Variable)
