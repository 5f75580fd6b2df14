"""Checks of the arguments of `PenalizedModel` and of its `compile`."""

from __future__ import annotations

import collections
import inspect
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfgrad import second_order
from tfgrad.errors import ArgumentError
from tfgrad.models.preprocessors import own_preprocessor
from tfgrad.penalties.base import Penalty
from tfgrad.penalties.checks import check_teacher
from tfgrad.penalties.teacher import needs_of

# {part of the name of a loss: the loss of that kind which takes logits}.
_ON_LOGITS = {
    "binaryfocal": "BinaryFocalCrossentropy",
    "binary": "BinaryCrossentropy",
    "sparse": "SparseCategoricalCrossentropy",
    "categoricalfocal": "CategoricalFocalCrossentropy",
    "categorical": "CategoricalCrossentropy",
}


def check_model(network: Any) -> None:
    """Raise unless the network is a Keras model.

    Raises:
        ArgumentError: It is none.
    """
    if not isinstance(network, keras.Model):
        raise ArgumentError(
            f"network: got {type(network).__name__}; expected a keras.Model "
            "(functional, Sequential or subclassed)."
        )


def checked_penalties(penalties: Any) -> list[Penalty]:
    """The penalties, one or several, as a list.

    Raises:
        ArgumentError: One is no penalty, or its name is taken.
    """
    penalties = [penalties] if isinstance(penalties, Penalty) else list(penalties)
    for penalty in penalties:
        if not isinstance(penalty, Penalty):
            raise ArgumentError(
                f"penalties: got {type(penalty).__name__}; expected instances of "
                "tfgrad.penalties.Penalty, e.g. GradientNorm(0.1)."
            )
    counts = collections.Counter(["loss", *(penalty.name for penalty in penalties)])
    for name, count in counts.items():
        if count > 1:
            raise ArgumentError(
                f"penalties: got the name {name!r}, which is taken; expected different names, none "
                "of them 'loss'. Give every penalty its own name=."
            )
    return penalties


def check_teacher_argument(teacher: Any, network: keras.Model, penalties: list[Penalty]) -> None:
    """Raise unless the teacher is one that the penalties match, and None if they match none.

    Raises:
        ArgumentError: It is missing, not wanted, or shares weights with the network.
        ModelError: It returns probabilities, and a penalty compares logits.
    """
    if needs_of(penalties) is None:
        if teacher is not None:
            raise ArgumentError(
                f"teacher: got {getattr(teacher, 'name', teacher)!r}, but no penalty matches one; "
                "expected None. Add a penalty that does, e.g. "
                "tfgrad.penalties.ActivationMatching()."
            )
        return
    check_teacher(teacher, network, penalties)
    theirs, ours = own_preprocessor(teacher), own_preprocessor(network)
    if theirs is not None and (ours is None or not _is_alike(theirs, ours)):
        raise ArgumentError(
            f"teacher: got {teacher.name!r} with the preprocessor {theirs.name!r}, which "
            f"network {network.name!r} does not have; expected a teacher of the images that the "
            "network takes. Set teacher.preprocessor = None if these are preprocessed alike."
        )
    trained = {id(variable) for variable in network.trainable_variables}
    if any(id(variable) in trained for variable in teacher.variables):
        raise ArgumentError(
            f"teacher: got {teacher.name!r}, which shares weights with network {network.name!r} "
            "and would change during training; expected weights of its own. Give the network "
            "copies of them: keras.models.clone_model(network), then set_weights."
        )


def _is_alike(a: keras.Layer, b: keras.Layer) -> bool:
    """Whether two layers have the same configuration, up to the names of layers."""
    return type(a) is type(b) and repr(_nameless(a.get_config())) == repr(_nameless(b.get_config()))


def _nameless(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _nameless(value) for key, value in config.items() if key != "name"}
    return [_nameless(v) for v in config] if isinstance(config, list | tuple) else config


def check_loss(loss: Any, penalized: bool, network: keras.Model) -> None:
    """Raise if a loss expects probabilities, or several logits of a network with one.

    Args:
        loss: A loss as `compile` takes it, or None.
        penalized: Whether there are penalties that need logits.
        network: The network.

    Raises:
        ArgumentError: It expects probabilities, and there are such penalties; or it compares
            logits, and the network has one output.
    """
    if loss is None:
        return
    name, from_logits = _described(loss)
    known = name.lower().replace("_", "")
    binary = "keras.losses.BinaryCrossentropy(from_logits=True)"
    single = getattr(network, "built", False) and _outputs_of(network) == 1
    if single and "categoricalcrossentropy" in known:
        raise ArgumentError(
            f"loss: got {name!r} for network {network.name!r} with one output; expected a loss on "
            f"one logit of two classes; try {binary}."
        )
    if from_logits is False and penalized:
        kind = next((kind for part, kind in _ON_LOGITS.items() if part in known), None)
        other = binary if single else f"keras.losses.{kind or 'SparseCategoricalCrossentropy'}"
        raise ArgumentError(
            f"loss: got {name!r}, which expects probabilities; expected a loss on logits, which "
            f"penalties differentiate. Use {other.removesuffix('(from_logits=True)')}"
            "(from_logits=True)."
        )


def _outputs_of(network: keras.Model) -> int | None:
    """The number of a network's outputs, if it tells."""
    try:
        shape = network.output_shape
    except (AttributeError, ValueError):
        return None
    return shape[-1] if isinstance(shape, tuple) and len(shape) == 2 else None


def check_unreduced(model: keras.Model) -> None:
    """Raise if a loss with reduction=None is to be added to the losses of layers.

    Raises:
        ArgumentError: There are such losses, to which Keras cannot add a vector.
    """
    if model.losses:
        raise ArgumentError(
            "loss: got reduction=None beside regularisers or losses of layers, to which Keras "
            "cannot add one loss per example; expected a reduction; try reduction='sum', which "
            "has the same gradient."
        )


def _described(loss: Any) -> tuple[str, bool | None]:
    """A loss's name, and whether it takes logits; None where that is unknown or no question."""
    if isinstance(loss, str):
        return loss, False if "crossentropy" in loss.lower() else None
    if inspect.isfunction(loss):
        parameter = inspect.signature(loss).parameters.get("from_logits")
        return loss.__name__, parameter.default if parameter else None
    from_logits = getattr(loss, "from_logits", None)
    if from_logits is None and isinstance(loss, keras.losses.Loss):
        from_logits = loss.get_config().get("from_logits")
    return getattr(loss, "name", type(loss).__name__), from_logits


def check_metrics(metrics: Any, taken: Iterable[str]) -> None:
    """Raise if a metric has the name of a penalty.

    Args:
        metrics: A nest of metrics as `compile` takes them.
        taken: Names of the penalties.

    Raises:
        ArgumentError: A name is taken.
    """
    names = set(taken)
    for metric in tf.nest.flatten(metrics):
        name = metric if isinstance(metric, str) else getattr(metric, "name", None)
        if name in names:
            raise ArgumentError(
                f"metrics: got the name {name!r}, which is taken by a penalty; expected another. "
                "Give the metric or the penalty its own name=."
            )


def is_wrong_under_xla(network: keras.Model, penalties: list[Penalty]) -> bool:
    """Whether a network is known to have a second derivative that only XLA falsifies."""
    twice = any(penalty.differentiates_twice for penalty in penalties)
    known = network.built and getattr(network, "inputs", None)
    return bool(twice and known and second_order.inspect(network).under_xla)
