"""Checks of a model and of the options it is exported with."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgrad import saliency
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.export.signatures import Served
from tfgrad.gradients import axes, model_checks
from tfgrad.internal import keras_private
from tfgrad.internal.arguments import suggestion
from tfgrad.models import output_meaning
from tfgrad.models.preprocessors import own_preprocessor
from tfgrad.targets import Target


def served(model: Any, preprocess: Any, outputs: Any = None) -> tuple[Served, Any]:
    """What signatures are built from, for a model that can be exported, and its preprocessing.

    Args:
        model: The model.
        preprocess: What was given to run before it; None: the model's own preprocessor, if any.
        outputs: What the outputs mean, as `tfgrad.models.output_meaning` takes it.

    Raises:
        ArgumentError: It is no Keras model.
        ModelError: It is not built, has a weight that is NaN or infinite, has several inputs or an
            integer one, or returns something else than one tensor [B, K].
    """
    network = model_checks.network(model)
    if (own := own_preprocessor(network)) is not None:
        preprocess = own if preprocess is None else preprocess
        network = _without_preprocessor(network, own.name)
    check_weights(network)
    try:
        shape, dtype = _image_shape(network), model_checks.input_dtype(network)
    except ArgumentError as error:  # here the model is at fault, not an option of the export
        raise ModelError(str(error)) from error
    model_checks.check_logits(network, tf.TensorSpec(shape, dtype))
    model_checks.check_outputs(network)
    count = _number_of_outputs(network, shape, dtype)
    output_meaning.warn_if_assumed(network, outputs, count)
    meaning = output_meaning.meaning(network, outputs, count)
    image = tf.TensorSpec(shape, tf.float32, "image")
    axis = axes.of_input(network, tf.TensorSpec(shape, dtype)).channels
    return Served(network, dtype, image, count, meaning, channel_axis=axis), preprocess


def check_weights(network: keras.Model) -> None:
    """Reject a model with a weight that is NaN or infinite.

    Raises:
        ModelError: It has one.
    """
    if path := model_checks.nonfinite_weight(network.weights):
        raise ModelError(
            f"model {network.name!r}: got NaN or infinite values in the weight {path}; expected "
            "finite weights. Its training diverged: export an earlier checkpoint, or train with a "
            "lower learning rate."
        )


def targets_of(given: Any) -> list[Target]:
    """The targets of further signatures, checked.

    Raises:
        ArgumentError: They are no list of `tfgrad.targets.Target`, or two have one name.
    """
    if not isinstance(given, list | tuple) or not all(isinstance(t, Target) for t in given):
        raise ArgumentError(
            f"targets: got {given!r}; expected a list of tfgrad.targets.Target; try "
            "[tfgrad.targets.Scalar(function, 'name')]."
        )
    names = [target.name for target in given]
    if len(set(names)) < len(names):
        raise ArgumentError(
            f"targets: got the names {names}; expected another one for each, which its signature "
            "bears; try Target(..., name=...)."
        )
    return list(given)


def _without_preprocessor(network: keras.Model, name: str) -> keras.Model:
    """The same layers as a model without the preprocessor, which then runs in the signatures."""
    if not getattr(network, "inputs", None) or not getattr(network, "outputs", None):
        raise ModelError(
            f"model {network.name!r}: got a subclassed model with the preprocessor {name!r}, which "
            "runs in its own fit and predict; expected a functional one, or none. Set "
            "model.preprocessor = None and pass it as preprocess=."
        )
    bare = keras.Model(network.inputs[0], list(network.outputs), name=network.name)
    return output_meaning.inherit(bare, network)


def _image_shape(network: keras.Model) -> tuple[int | None, ...]:
    shape = model_checks.input_shape(network)
    if shape is None:
        raise ModelError(
            f"model {network.name!r}: got a model whose input shape is unknown; expected one "
            "tensor. Wrap it in a functional keras.Model with a single "
            "keras.Input."
        )
    if getattr(network, "inputs", None) is None:
        # A server needs sizes: those of the batch on which the subclassed model was built.
        shape = (None, *network.get_build_config()["input_shape"][1:])
    return shape


def _number_of_outputs(network: keras.Model, shape: tuple[int | None, ...], dtype: str) -> int:
    """K, of a subclassed model from a symbolic call, as it has no symbolic outputs."""
    outputs = []
    if keras_private.is_graph_of_layers(network):
        outputs = keras.tree.flatten(network.outputs)
    if not outputs:
        outputs = tf.nest.flatten(network(keras.KerasTensor(shape, dtype=dtype), training=False))
    if len(outputs) != 1 or len(outputs[0].shape) != 2 or outputs[0].shape[-1] is None:
        raise ModelError(
            f"model {network.name!r}: it returns {[tuple(o.shape) for o in outputs]}; expected one "
            "tensor of logits [batch, classes]. Pass the part of the model that returns that."
        )
    return outputs[0].shape[-1]


def check_methods(methods: Sequence[str | saliency.Method]) -> None:
    """Reject anything but a list of methods and of names of methods.

    Raises:
        ArgumentError: `methods` is a single method or name, or contains something unknown.
    """
    known = f"{', '.join(map(repr, saliency.METHODS))}, or methods built on the model"
    if isinstance(methods, str | saliency.Method):
        kind = "string" if isinstance(methods, str) else "method"
        raise ArgumentError(f"methods: got the {kind} {methods!r}; expected a list of {known}.")
    for method in methods:
        if not isinstance(method, saliency.Method) and (
            not isinstance(method, str) or method not in saliency.METHODS
        ):
            words = suggestion(method, saliency.METHODS)
            raise ArgumentError(f"methods: got {method!r}; {words}{known}.")


def methods_of(
    network: keras.Model, methods: Sequence[str | saliency.Method], meaning: str | None = None
) -> list[saliency.Method]:
    """One method per name, in order; a name given twice counts once.

    Args:
        network: The exported model.
        methods: Names, or methods built on this model.
        meaning: The argument `outputs` of methods that are given by name.

    Raises:
        ArgumentError: A method was built on another model, or two methods have one name.
    """
    chosen: dict[str, saliency.Method] = {}
    for method in dict.fromkeys(methods):
        if isinstance(method, str):
            built = saliency.METHODS[method](network, outputs=meaning)
        else:
            built = method
        if not _is_same(built.network, network):
            raise ArgumentError(
                f"methods: got {method!r}, built on another model; expected methods of the "
                f"exported {network.name!r}. Build it on the model that is exported."
            )
        told = output_meaning.known(built.network, built.outputs)
        if meaning is not None and told not in (None, meaning):
            raise ArgumentError(
                f"methods: got {method!r}, for which the outputs mean {told!r}; the export takes "
                f"them for {meaning!r}. Expected one meaning; try outputs={meaning!r} in both."
            )
        if built.name in chosen:
            raise ArgumentError(
                f"methods: got {built.name!r} twice; expected one method for each name of a "
                "signature. Export the second to another directory."
            )
        chosen[built.name] = built
    return list(chosen.values())


def _is_same(a: keras.Model, b: keras.Model) -> bool:
    """Whether two models are one, or were made of one that takes a dict of its single input."""
    return a is b or _tensors(a) == _tensors(b) != []


def _tensors(network: keras.Model) -> list[int]:
    """Identities of a functional model's inputs and outputs; nothing for other models."""
    ends = (getattr(network, "inputs", None), getattr(network, "outputs", None))
    return [id(tensor) for tensors in ends for tensor in tensors or ()]


def image_range(given: Any) -> tuple[float, float]:
    """The values of black and white as floats.

    Raises:
        ArgumentError: They are not two finite numbers, the lower first.
    """
    pair = tuple(given) if isinstance(given, Sequence) else ()
    if (
        len(pair) != 2
        or not all(isinstance(v, numbers.Real) and math.isfinite(v) for v in pair)
        or pair[0] >= pair[1]
    ):
        raise ArgumentError(
            f"image_range: got {given!r}; expected the values of black and white, such as "
            "(0, 1), (0, 255) or (-1, 1)."
        )
    return float(pair[0]), float(pair[1])


def class_names(classes: Sequence[str] | None, count: int) -> list[str] | None:
    """The names as a list, one for each of `count` classes, or outputs of a regression.

    Raises:
        ArgumentError: They are not strings, or not as many.
    """
    if classes is None:
        return None
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise ArgumentError(f"classes: got {classes!r}; expected a list of {count} names.")
    if len(classes) != count:
        raise ArgumentError(
            f"classes: got {len(classes)} names; expected {count}, one per logit, or two for one "
            "logit of two classes. Name every class in order."
        )
    return list(classes)
