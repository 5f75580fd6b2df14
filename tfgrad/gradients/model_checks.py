"""Requirements on a classifier to be explained: one float input, one tensor of logits."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfgrad import second_order
from tfgrad.errors import ArgumentError, LogitsWarning, ModelError
from tfgrad.internal import keras_private
from tfgrad.internal.wrapper import Wrapper
from tfgrad.models import call_inputs, last_activation, output_meaning
from tfgrad.models.preprocessors import own_preprocessor

# Networks whose user was told that their last activation is left out.
_told: weakref.WeakSet[Any] = weakref.WeakSet()
# Networks that return no mixtures of probabilities.
_looked_at: weakref.WeakSet[Any] = weakref.WeakSet()


def network(model: Any, as_returned: bool = False) -> keras.Model:
    """The Keras model that returns logits, taken out of a `Wrapper` such as `PenalizedModel`.

    Of a model that ends in a softmax or a sigmoid, `tfgrad.models.logits`; see `returning_logits`.

    A model that takes a dict of one input is returned as one that takes the tensor, with the same
    layers.

    Args:
        model: The model.
        as_returned: Whether a last softmax or sigmoid is kept.

    Raises:
        ArgumentError: The model is no Keras model.
        ModelError: The model is not built, or ends in the softmax of one unit.

    Warns:
        LogitsWarning: A softmax or sigmoid is left out; once per model.
    """
    found = model.network if isinstance(model, Wrapper) else model
    if not isinstance(found, keras.Model):
        raise ArgumentError(f"model: got a {type(model).__name__}; expected a keras.Model.")
    if not found.built:
        raise ModelError(
            f"model {found.name!r}: it is not built. Call it on a batch, or load its weights, "
            "before passing it on."
        )
    if not as_returned:
        found = returning_logits(found)
    if keras_private.takes_a_dict(found) and len(found.inputs) == 1:
        check_preprocessed("model", found)  # the copy would lose it
        # Keras warns if it gets a tensor where it expects a dict.
        alike = keras.Model(found.inputs[0], list(found.outputs), name=found.name)
        return output_meaning.inherit(alike, found)
    return found


def returning_logits(model: Any, x: Any = None) -> Any:
    """The model without its last softmax or sigmoid, or the model itself if it returns logits.

    Args:
        model: A model or layer, perhaps in a `Wrapper`. One that is not built is returned as it is.
        x: Its inputs, or `tf.TensorSpec`s of them; None: as far as the model defines them.

    Raises:
        ModelError: The model ends in the softmax of one unit, or its outputs are a mixture of
            softmaxes.

    Warns:
        LogitsWarning: Something is left out; once per model.
    """
    found = model.network if isinstance(model, Wrapper) else model
    if not isinstance(found, keras.layers.Layer) or not found.built:
        return found
    ends = last_activation.may_return_probabilities(found)
    if ends is None:
        known = x is not None or getattr(found, "inputs", None)
        ends = _returns_probabilities(found, x) if known else _seems_to(found)
    if not ends:
        if found not in _looked_at and last_activation.combines(found):
            last_activation.check_no_probabilities(found)
            _looked_at.add(found)
        return found
    made, left_out = last_activation.leaving_out(found)
    if made is not found and found not in _told:
        _told.add(found)
        warnings.warn(
            f"model {found.name!r}: {left_out} is left out here, because explanations and tests "
            "are of logits, and the result is that of tfgrad.models.logits(model). Pass that model "
            "instead to get no warning.",
            LogitsWarning,
            stacklevel=_levels_to_the_user(),
        )
    return made


def _levels_to_the_user() -> int:
    """The `stacklevel` that names the line outside of tfgrad, for the caller of this function."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("tfgrad"):
        level, frame = level + 1, frame.f_back
    return level


def _seems_to(network: keras.Model) -> bool:
    """Whether a subclassed model that is not called here returns probabilities."""
    for specs in call_inputs.candidates(network):
        try:
            return _returns_probabilities(network, specs)
        except (TypeError, ValueError, tf.errors.OpError):  # it takes inputs of other types
            pass
    return False


def _returns_probabilities(network: keras.Model, specs: Any) -> bool:
    try:
        inspection = second_order.inspect(network, specs, training=False)
    except ModelError:  # raised again where the network is used
        return False
    return inspection.probabilities is not None


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
            f"gradient; try {after_integer_inputs(network)}."
        )
    return dtype


def after_integer_inputs(network: keras.layers.Layer) -> str:
    """The part of a network with integer inputs that has gradients, as an error message names it.

    Keras casts what a model gets to the dtype of its inputs, so that neither a cast of the images
    nor a float input around the model helps: it is the rest of the model that can be explained.
    """
    for layer in getattr(network, "layers", []):
        try:
            dtypes = [t.dtype for t in keras.tree.flatten((layer.input, layer.output))]
        except (AttributeError, ValueError):  # called more than once, or never
            continue
        if not tf.as_dtype(dtypes[0]).is_floating and tf.as_dtype(dtypes[-1]).is_floating:
            part = f"network.get_layer({layer.name!r}).output"
            return (
                f"keras.Model({part}, network.outputs[0]), the part of the network after the layer "
                f"that returns floats, on x = keras.Model(network.inputs[0], {part})(x)"
            )
    return "the part of the network after its first layer that returns floats, as a model"


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


def check_logits(network: keras.Model, x: Any, role: str = "model") -> None:
    """Check that a network does not return probabilities.

    Args:
        network: A built Keras model.
        x: Its inputs, or `tf.TensorSpec`s of them; the values are not used.
        role: The argument that the network came in by, as the message names it.

    Raises:
        ModelError: An output ends in a softmax or a sigmoid; or the network has a preprocessor.
    """
    check_preprocessed(role, network)
    check_no_probabilities(role, network, second_order.inspect(network, x, training=False))


def check_preprocessed(role: str, network: Any) -> None:
    """Raise if a network leaves a preprocessor to its own `predict`, which is not called.

    Args:
        role: The argument that the network came in by, as the message names it.
        network: The network, which is about to be called on images as they are.

    Raises:
        ModelError: It has one, as the tasks of KerasHub may have.
    """
    preprocessor = own_preprocessor(network)
    if preprocessor is not None:
        raise ModelError(
            f"{role} {network.name!r}: got a model whose preprocessor {preprocessor.name!r} runs "
            "in its own fit and predict and not in a call, as here; expected one that takes the "
            "images as they are. Pass x = model.preprocessor(x), after model.preprocessor = None; "
            "tfgrad.PenalizedModel and tfgrad.export.save run the preprocessor, and so does "
            "export.save(…, preprocess=preprocessor) of a model without one."
        )


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
            "(classifier_activation=None to a model of keras.applications), or take "
            "tfgrad.models.logits(model), which leaves the activation of a trained model out; and "
            "compile the loss with from_logits=True."
        )


def check_repeatable(network: keras.Model, x: Any) -> None:
    """Raise if a further pass in training mode cannot repeat the first one's masks and state.

    Raises:
        ModelError: A layer keeps seeds or statistics outside its variables.
    """
    inspection = second_order.inspect(network, x, training=True)
    for names, what in (
        (inspection.stateful_random, "draws from TensorFlow's stateful generators"),
        (inspection.untracked_state, "keeps state outside the network's variables"),
    ):
        if names:
            raise ModelError(
                f"network {network.name!r}: {names[0]!r} {what}, so an additional forward pass "
                "cannot repeat the first one's masks and state. In your own layers use "
                "keras.random with seed=keras.random.SeedGenerator(), and add_weight for state; or "
                "choose estimator='hutchinson'."
            )


def nonfinite_weight(weights: Iterable[keras.Variable]) -> str | None:
    """Path of the first weight with a NaN or infinite value; None if all are finite."""
    for variable in weights:
        value = tf.convert_to_tensor(variable.value)
        if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
            return variable.path
    return None
