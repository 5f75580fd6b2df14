"""What a classifier must be to be looked at: from one float input to one tensor of logits."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfgrad import second_order
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.internal import keras_private


class Wrapper:
    """Base of what stands around a plain model and says the same.

    Attributes:
        network: that model.
    """

    network: keras.Model


def network(model: Any) -> keras.Model:
    """The Keras model, out of a `Wrapper` such as `PenalizedModel`.

    A model that takes a dict of one input comes back as one that takes the tensor, with the same
    layers.

    Raises:
        ArgumentError: it is no Keras model.
        ModelError: it is not built.
    """
    found = model.network if isinstance(model, Wrapper) else model
    if not isinstance(found, keras.Model):
        raise ArgumentError(f"model: got a {type(model).__name__}; expected a keras.Model.")
    if not found.built:
        raise ModelError(
            f"model {found.name!r}: it is not built. Call it on a batch, or load its weights, "
            "before passing it on."
        )
    if keras_private.takes_a_dict(found) and len(found.inputs) == 1:
        # The same layers, fed with a tensor: Keras warns of a tensor where it expects a dict.
        return keras.Model(found.inputs[0], list(found.outputs), name=found.name)
    return found


def input_shape(network: keras.Model) -> tuple[int | None, ...] | None:
    """(None, …), the shape of the one input; None where the model does not tell.

    Raises:
        ArgumentError: there are several inputs.
    """
    inputs = getattr(network, "inputs", None)
    if inputs is not None:
        shapes = [tuple(i.shape) for i in keras.tree.flatten(inputs)]
        if len(shapes) != 1:
            raise ArgumentError(
                f"model {network.name!r}: got {len(shapes)} inputs, of shapes {shapes}; expected a "
                "model with one. Fix the others, keras.Model(x, model([x, constant])), or take "
                "tfgrad.full_gradients, which explains several."
            )
        return (None, *shapes[0][1:])
    shape = (network.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, tuple | list) or not all(isinstance(n, int | None) for n in shape):
        return None
    # The sizes of a subclassed model's first batch need not be the only ones it takes.
    return (*(None for _ in shape[1:]), shape[-1])


def input_dtype(network: keras.Model) -> str:
    """What the network is fed: float32 also where it computes in half precision.

    Raises:
        ArgumentError: its input is no float.
    """
    inputs = getattr(network, "inputs", None)
    dtype = keras.tree.flatten(inputs)[0].dtype if inputs else network.variable_dtype
    if not tf.as_dtype(dtype).is_floating:
        raise ArgumentError(
            f"model {network.name!r}: its input is {dtype}, and only a float input has a "
            "gradient. Use keras.Input without dtype and cast inside the model."
        )
    return dtype


def check_outputs(network: keras.Model) -> None:
    """Refuse what is not one tensor [B, K], where the model tells before it is called.

    Raises:
        ModelError: there are several outputs, or the one is not [B, K].
    """
    outputs = getattr(network, "outputs", None)
    if outputs is None:
        return
    shapes = [tuple(o.shape) for o in keras.tree.flatten(outputs)]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ModelError(
            f"model {network.name!r}: it returns {shapes}, expected one tensor of logits [batch, "
            "classes]. Pass the part of the model that returns that; tfgrad.models.one_head keeps "
            "one of several outputs."
        )


def check_logits(network: keras.Model, x: Any) -> None:
    """Refuse a network that returns probabilities.

    Args:
        network: a built Keras model.
        x: its inputs, or `tf.TensorSpec`s of them; the values do not count.

    Raises:
        ModelError: an output ends in a softmax or a sigmoid.
    """
    check_no_probabilities("model", network, second_order.inspect(network, x, training=False))


def check_no_probabilities(
    role: str, network: keras.Model, inspection: second_order.Inspection
) -> None:
    """Reject a network that was found to return probabilities.

    Args:
        role: The argument that the network came in by, as the message names it: "model",
            "network" or "teacher".
        network: The network.
        inspection: What `second_order.inspect` or `check` found of it.

    Raises:
        ModelError: An output ends in a softmax or a sigmoid.
    """
    if inspection.probabilities is not None:
        raise ModelError(
            f"{role} {network.name!r}: its layer {inspection.probabilities!r} returns "
            "probabilities; expected logits. Pass activation=None to the last layer "
            "(classifier_activation=None to a model of keras.applications) and train with "
            "from_logits=True in the loss."
        )


def nonfinite_weight(model: keras.Model) -> str | None:
    """Path of the first weight with a NaN or infinite value; None if all weights are finite."""
    for variable in model.weights:
        value = tf.convert_to_tensor(variable.value)
        if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
            return variable.path
    return None
