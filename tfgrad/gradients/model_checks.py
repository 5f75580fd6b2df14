"""Requirements on a classifier to be explained: one float input, one tensor of logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfgrad import second_order
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.internal import keras_private


class Wrapper:
    """Base class of models that wrap a plain model and have the same outputs.

    Attributes:
        network: The plain model.
    """

    network: keras.Model


def network(model: Any) -> keras.Model:
    """The Keras model, taken out of a `Wrapper` such as `PenalizedModel`.

    A model that takes a dict of one input is returned as one that takes the tensor, with the same
    layers.

    Raises:
        ArgumentError: The model is no Keras model.
        ModelError: The model is not built.
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
        # Keras warns if it gets a tensor where it expects a dict.
        return keras.Model(found.inputs[0], list(found.outputs), name=found.name)
    return found


def input_shape(network: keras.Model) -> tuple[int | None, ...] | None:
    """The shape (None, …) of the one input; None if the model does not define it.

    Raises:
        ArgumentError: There are several inputs.
    """
    inputs = getattr(network, "inputs", None)
    if inputs is not None:
        shapes = [tuple(i.shape) for i in keras.tree.flatten(inputs)]
        if len(shapes) != 1:
            raise ArgumentError(
                f"model {network.name!r}: got {len(shapes)} inputs, of shapes {shapes}; expected a "
                "model with one; try keras.Model(x, model([x, constant])) with the others fixed, "
                "or tfgrad.full_gradients, which takes several."
            )
        return (None, *shapes[0][1:])
    shape = (network.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, tuple | list) or not all(isinstance(n, int | None) for n in shape):
        return None
    # A subclassed model may take other sizes than those of its first batch.
    return (*(None for _ in shape[1:]), shape[-1])


def input_dtype(network: keras.Model) -> str:
    """The dtype of the network's input: float32 also where it computes in half precision.

    Raises:
        ArgumentError: The input is not a float.
    """
    inputs = getattr(network, "inputs", None)
    dtype = keras.tree.flatten(inputs)[0].dtype if inputs else network.variable_dtype
    if not tf.as_dtype(dtype).is_floating:
        raise ArgumentError(
            f"model {network.name!r}: its input is {dtype}, and only a float input has a "
            "gradient; try keras.Input without dtype, and a cast inside the model."
        )
    return dtype


def check_outputs(network: keras.Model) -> None:
    """Check that the outputs are one tensor [B, K], if the model defines them before a call.

    Raises:
        ModelError: There are several outputs, or the only one is not [B, K].
    """
    outputs = getattr(network, "outputs", None)
    if outputs is None:
        return
    shapes = [tuple(o.shape) for o in keras.tree.flatten(outputs)]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ModelError(
            f"model {network.name!r}: it returns {shapes}; expected one tensor of logits [batch, "
            "classes]; try the part of the model that returns that; tfgrad.models.one_head keeps "
            "one of several outputs."
        )


def check_logits(network: keras.Model, x: Any) -> None:
    """Check that a network does not return probabilities.

    Args:
        network: A built Keras model.
        x: Its inputs, or `tf.TensorSpec`s of them; the values are not used.

    Raises:
        ModelError: An output ends in a softmax or a sigmoid.
    """
    check_no_probabilities("model", network, second_order.inspect(network, x, training=False))


def check_no_probabilities(
    role: str, network: keras.Model, inspection: second_order.Inspection
) -> None:
    """Raise if a network was found to return probabilities.

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


def nonfinite_weight(weights: Iterable[keras.Variable]) -> str | None:
    """Path of the first weight with a NaN or infinite value; None if all are finite."""
    for variable in weights:
        value = tf.convert_to_tensor(variable.value)
        if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
            return variable.path
    return None
