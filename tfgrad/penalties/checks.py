"""Checks of a network and its teacher, made before penalties are computed on them."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgrad import second_order
from tfgrad.errors import ArgumentError, ImageRangeWarning, ModelError, SecondOrderWarning
from tfgrad.gradients import layer_biases
from tfgrad.gradients.model_checks import check_no_probabilities
from tfgrad.gradients.targets import Target
from tfgrad.internal import call_hooks
from tfgrad.internal.keras_private import flatten_layers
from tfgrad.models import output_meaning, pixel_range

# Networks whose user has been warned already.
_warned_of_relu: weakref.WeakSet[Any] = weakref.WeakSet()
_warned_of_batch_norm: weakref.WeakSet[Any] = weakref.WeakSet()
# The weight of a squared gradient of pixels in 0 to 1 below which it has no effect to speak of.
_NO_EFFECT = 1e-4


def check_network(
    network: keras.Model, penalties: Sequence[Any], x: Any = None, training: bool = True
) -> None:
    """Raise if a network has wrong second derivatives or returns probabilities.

    Args:
        network: A Keras model.
        penalties: The penalties to be computed on it.
        x: A batch, for networks whose input shape is not known yet.
        training: Mode of the network's forward pass.

    Warns:
        SecondOrderWarning: A score penalty on a ReLU network, or one whose trace batch norm turns
            into the trace of the batch; once per network.

    Raises:
        SecondOrderError: TensorFlow drops or falsifies a second derivative in it.
        ModelError: Its outputs are probabilities, and a penalty reads them as logits.
    """
    for penalty in penalties:
        call_hooks.check_names(network, penalty.needs().layers)
        layer_biases.check(network, penalty.needs().biases)
    twice = any(p.differentiates_twice for p in penalties)
    inspect = second_order.check if twice else second_order.inspect
    embedded = any(p.needs().at not in (None, False) for p in penalties)
    inspection = inspect(network, x, training=training, embeddings=embedded)
    _warn_once(_warned_of_relu, network, _flat(network, penalties, inspection))
    if training:
        _warn_once(_warned_of_batch_norm, network, _coupled(network, penalties))
    if any(map(reads_outputs, penalties)):
        check_no_probabilities("network", network, inspection)


def reads_outputs(penalty: Any) -> bool:
    """Whether a penalty reads the outputs, which probabilities would falsify."""
    target = getattr(penalty, "target", None)
    if isinstance(target, Target):
        return target.of_logits
    return penalty.needs().logits or penalty.compares_logits


def warn_of_assumed_outputs(network: keras.Model, penalties: Sequence[Any]) -> None:
    """Warn of penalties that take one output for a logit, where nothing says that it is one.

    To be called once the loss is known, with the network and the penalties to be computed on it.

    Warns:
        OutputMeaningWarning: A penalty reads the sign or a probability of such an output; once per
            network.
    """
    for penalty in penalties:
        if penalty.reads_classes:
            output_meaning.warn_if_assumed(network, head=own_head(penalty.head))


def warn_of_small_weights(network: Any, penalties: Sequence[Any]) -> None:
    """Warn of weights that are meant for pixels in 0 to 1, where a network takes 0 to 255.

    Args:
        network: The network; what is not built yet tells no range.
        penalties: The penalties that it is trained with. Weights that follow a schedule are not
            looked at.

    Warns:
        ImageRangeWarning: A weight above 0 that counts like less than 1e-4.
    """
    small = [
        penalty
        for penalty in penalties
        if penalty.squares_input_gradients
        and isinstance(penalty.weight, float)
        and penalty.weight > 0
    ]
    found = pixel_range.wide_range(network) if small else None
    if found is None:
        return
    for penalty in small:
        times = (found[1] - found[0]) ** 2
        if penalty.weight < _NO_EFFECT * times:
            warnings.warn(
                f"weight: got {penalty.weight:g} for {penalty.name!r} and network "
                f"{network.name!r}; {smaller_gradients(found)}; expected a weight of that scale; "
                f"try {penalty.weight * times:g}, or pixels in 0 to 1.",
                ImageRangeWarning,
                stacklevel=3,
            )


def smaller_gradients(found: pixel_range.Range) -> str:
    """How much smaller the gradients are with respect to pixels in a wide range."""
    return (
        f"the network takes pixels in {found}, so that its squared gradients are "
        f"{(found[1] - found[0]) ** 2:,.0f} times smaller than those of pixels in 0 to 1"
    )


def own_head(head: Any) -> Any:
    """The network's head of a penalty, also out of a pair (the network's, the teacher's)."""
    return head[0] if isinstance(head, tuple) else head


def cautions(network: keras.Model, penalties: Sequence[Any], x: Any = None) -> list[str]:
    """What `check_network` warns of in training, each time it is asked.

    Args:
        network: A Keras model that passes the check.
        penalties: The penalties to be computed on it.
        x: A batch, for networks whose input shape is not known yet.
    """
    inspection = second_order.inspect(network, x)
    found = [_flat(network, penalties, inspection), _coupled(network, penalties)]
    if any(p.differentiates_twice for p in penalties):
        slight = [str(one) for one in inspection.findings if one.severity == "warning"]
        found += list(dict.fromkeys(slight))
    return [words for words in found if words is not None]


def behind(network: keras.Model, penalty: Any, x: Any = None) -> list[str]:
    """What `check_network` would tell next of a network whose second derivatives it rejects.

    Args:
        network: A Keras model that raised a `SecondOrderError`.
        penalty: The penalty to be computed on it.
        x: A batch, for networks whose input shape is not known yet.
    """
    try:
        inspection = second_order.inspect(network, x)
    except ValueError:  # a call that is repeated in the backward pass, which no trace passes
        return []
    found = [_flat(network, [penalty], inspection), _coupled(network, [penalty])]
    if reads_outputs(penalty):
        try:
            check_no_probabilities("network", network, inspection)
        except ModelError as error:
            found.append(str(error))
    return [words for words in found if words is not None]


def _warn_once(warned: weakref.WeakSet[Any], network: keras.Model, words: str | None) -> None:
    if words is not None and network not in warned:
        warned.add(network)
        warnings.warn(words, SecondOrderWarning, stacklevel=4)


def _flat(
    network: keras.Model, penalties: Sequence[Any], inspection: second_order.Inspection
) -> str | None:
    """What to know of a penalty on the Hessian of a network that has none."""
    smooth = [p.name for p in penalties if p.wants_smooth]
    if not smooth or not inspection.piecewise_linear:
        return None
    return (
        f"network {network.name!r}: ReLU is its only non-linearity, so its Hessian is zero "
        f"wherever it exists and {smooth[0]!r} has nothing to match; use a smooth activation, "
        "e.g. tfgrad.layers.Softplus(10.0)."
    )


def _coupled(network: keras.Model, penalties: Sequence[Any]) -> str | None:
    """What to know of a penalty on single images where batch norm couples them."""
    names = [p.name for p in penalties if p.wants_images_apart]
    norms = [
        layer.name
        for layer in flatten_layers(network)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if not names or not norms:
        return None
    return (
        f"network {network.name!r}: in training mode batch norm ({norms[0]!r}) makes every "
        f"logit depend on all images, so {names[0]!r} penalizes the trace of the batch and "
        'hardly that of an image. Pass statistics="running" for the image\'s own, or take a '
        "network without batch norm."
    )


def check_teacher(
    teacher: Any, network: keras.Model, penalties: Sequence[Any], x: Any = None
) -> None:
    """Raise if these penalties cannot match a network to a teacher.

    Args:
        teacher: The teacher.
        network: The student.
        penalties: The model's penalties; at least one matches a teacher.
        x: A batch, for teachers whose input shape is not known yet.

    Raises:
        ArgumentError: The teacher is missing, is no Keras model, or takes other inputs than the
            network.
        ModelError: Its outputs are probabilities, and a penalty compares logits.
    """
    matching = [p for p in penalties if p.teacher_needs() is not None]
    if not isinstance(teacher, keras.Model):
        raise ArgumentError(
            f"teacher: got {type(teacher).__name__}; expected a keras.Model that returns logits, "
            f"which {matching[0].name!r} matches."
        )
    own, taught = (_input_shape(model) for model in (network, teacher))
    plain = isinstance(own, tuple) and isinstance(taught, tuple)
    if plain and not tf.TensorShape(own).is_compatible_with(tf.TensorShape(taught)):
        raise ArgumentError(
            f"teacher: got a model of inputs {taught}; expected {own} as the network takes, "
            "because both receive the same batch. Resize the images, or put a "
            "tfgrad.layers.Resizing in front of the teacher."
        )
    for penalty in matching:
        if teacher.built or getattr(teacher, "inputs", None):
            call_hooks.check_names(teacher, penalty.teacher_needs().layers)
            layer_biases.check(teacher, penalty.teacher_needs().biases)
    if x is None and not getattr(teacher, "inputs", None):
        return  # Its inputs are known with the first batch, which is checked again.
    if any(p.compares_logits for p in matching):
        inspection = second_order.inspect(teacher, x, training=False)
        check_no_probabilities("teacher", teacher, inspection)


def _input_shape(model: keras.Model) -> Any:
    try:
        return model.input_shape
    except (AttributeError, ValueError):
        return None
