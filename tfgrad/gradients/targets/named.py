"""The scalar per example by name: a class, or all of them (thesis §2.4.1).

A gradient needs one scalar per example. A *target* names it:

| target        | scalar                                                    |
|---------------|-----------------------------------------------------------|
| `"label"`     | the logit of the true class                               |
| `"predicted"` | the largest logit, its index frozen                       |
| `"all"`       | every logit: the full Jacobian                            |
| an int        | that class's logit, for every example                     |
| ints [batch]  | one class per example; −1 stands for the predicted class  |

A network with one logit f of two classes has the classes 0 and 1, whose logits are −f and f; its
`"all"` is the one logit. Targets of a regression are indices of its outputs. Any other scalar is a
`Target`, see `base.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import class_scores
from tfgrad.gradients.class_scores import select
from tfgrad.gradients.labels import class_indices as labels
from tfgrad.gradients.targets.any_scalar import Scalar
from tfgrad.gradients.targets.base import Target, checked
from tfgrad.internal.arguments import is_integer, one_of
from tfgrad.models.output_meaning import BINARY, EXCLUSIVE, REGRESSION, class_count

NAMES = ("label", "predicted", "all")


def validated(target: Any, allow_all: bool = True) -> Any:
    """Check a target and convert it to one that a probe takes.

    Args:
        target: A name, an int, or ints [batch]; None means `"predicted"`. A `Target`, its saved
            config, or a function from the outputs to [batch], which becomes a `Scalar`.
        allow_all: Whether `"all"` is allowed.

    Returns:
        A name, an int, an int32 tensor, or a `Target`.

    Raises:
        ArgumentError: The target is none of these.
    """
    if target is None:
        return "predicted"
    if isinstance(target, Target):
        return target
    if isinstance(target, Mapping) and "class_name" in target:
        return validated(keras.saving.deserialize_keras_object(target))
    if callable(target) and not tf.is_tensor(target):
        return Scalar(target)
    if isinstance(target, str):
        allowed = NAMES if allow_all else NAMES[:2]
        if target not in allowed:
            raise ArgumentError(
                f"target: got {target!r}; expected one of {', '.join(map(repr, allowed))}, "
                "a class index, one class index per example, or a tfgrad.targets.Target."
            )
        return target
    if is_integer(target):
        if target < -1:
            raise ArgumentError(f"target: got class {target}; expected an index from 0 up, or -1.")
        return int(target)
    if not tf.is_tensor(target):
        target = np.asarray(target)
        if target.dtype.kind not in "iu":
            raise ArgumentError(
                f"target: got {target.dtype} values; expected integer class indices; try class "
                "numbers, not scores or one-hot rows."
            )
        target = tf.constant(target, tf.int32)
    if not target.dtype.is_integer or target.shape.rank not in (None, 0, 1):
        raise ArgumentError(
            f"target: got dtype {target.dtype.name}, shape {target.shape}; expected integer "
            "class indices of shape [batch]."
        )
    return tf.cast(target, tf.int32)


def classes(target: Any, logits: tf.Tensor, y: Any = None, meaning: str = EXCLUSIVE) -> tf.Tensor:
    """The class index of each example's scalar.

    Args:
        target: A validated target other than `"all"`.
        logits: [batch, K].
        y: Labels, needed for `"label"`, in a form that `tfgrad.gradients.labels` takes.
        meaning: What the outputs mean, see `tfgrad.models.output_meaning`. One logit of two
            classes has the indices 0 and 1; a regression has those of its outputs.

    Returns:
        int32 [batch]. No gradient flows through the choice of the largest logit.

    Raises:
        ArgumentError: The target does not exist; or it is the predicted one of several outputs of
            a regression.
    """
    if isinstance(target, Target):
        raise ArgumentError(
            f"target: got {target!r}, which is no class; expected a class here; try 'predicted', "
            "or an option that reads no class or probability."
        )
    count = class_count(meaning, logits.shape[-1])
    if isinstance(target, str):
        if target == "label":
            return _inside(labels(y, count, meaning), count, "y", 0, meaning)
        return _choice(logits, meaning)
    if isinstance(target, int):
        if count is not None and target >= count:
            raise ArgumentError(
                f"target: got class {target}; the model has {_counted(count, meaning)}, so "
                f"expected 0 to {count - 1}."
            )
        if target < 0:
            return _choice(logits, meaning)
        return tf.fill(tf.shape(logits)[:1], target)
    if target.shape.rank == 1 and not target.shape.is_compatible_with(logits.shape[:1]):
        raise ArgumentError(
            f"target: got {target.shape[0]} classes for a batch of {logits.shape[0]}; "
            "expected one per example."
        )
    lowest = -1 if _has_choice(logits, meaning) else 0
    given = _inside(target, count, "target", lowest, meaning)
    given = tf.broadcast_to(given, tf.shape(logits)[:1])
    return tf.where(given < 0, _choice(logits, meaning), given) if lowest else given


def scalar(
    logits: tf.Tensor,
    indices: tf.Tensor,
    of: str,
    temperature: float = 1.0,
    meaning: str = EXCLUSIVE,
) -> tf.Tensor:
    """The scalar of each example, [batch]: a logit, or what softmax or sigmoid makes of it.

    Args:
        logits: [batch, K].
        indices: The class of each example, int32 [batch].
        of: `"logit"`; `"probability"` or `"log_probability"` under logits / temperature.
        temperature: The temperature of softmax or sigmoid; it does not change a logit.
        meaning: What the outputs mean.

    Raises:
        ArgumentError: `of` is none of these, or a probability of a regression.
    """
    if one_of("of", of, ("logit", "probability", "log_probability")) == "logit":
        return class_scores.logit(logits, indices, meaning)
    logits = logits if temperature == 1.0 else logits / temperature
    if of == "log_probability":
        return class_scores.log_probability(logits, indices, meaning)
    return select(class_scores.probabilities(logits, meaning), indices)


def to_config(target: Any) -> Any:
    """A target as JSON can hold it."""
    if isinstance(target, Target):
        return keras.saving.serialize_keras_object(target)
    return target.numpy().tolist() if tf.is_tensor(target) else target


def _has_choice(logits: tf.Tensor, meaning: str) -> bool:
    """Whether a target may leave the class open."""
    return meaning != REGRESSION or logits.shape[-1] == 1


def _choice(logits: tf.Tensor, meaning: str) -> tf.Tensor:
    """What a target leaves open: the predicted class, or the only output of a regression."""
    if meaning != REGRESSION:
        return class_scores.predicted(logits, meaning)
    if not _has_choice(logits, meaning):
        raise ArgumentError(
            f"target: got 'predicted' on {logits.shape[-1]} outputs of a regression, which "
            "predicts no class; expected the index of an output, from 0 up."
        )
    return tf.zeros(tf.shape(logits)[:1], tf.int32)


def _counted(count: int, meaning: str) -> str:
    if meaning == BINARY:
        return "one logit of two classes"
    return f"{count} {'outputs' if meaning == REGRESSION else 'logits'}"


def _inside(
    indices: tf.Tensor, count: int | None, name: str, lowest: int, meaning: str
) -> tf.Tensor:
    """The indices, checked to be those of logits; an absent class would select zeros."""
    if count is None:
        return indices
    low, high = tf.reduce_min(indices), tf.reduce_max(indices)
    return checked(
        indices,
        tf.reduce_all(tf.logical_and(indices >= lowest, indices < count)),
        *(f"{name}: got classes from", low, "to", high),
        f"; expected {lowest} to {count - 1}, the model has {_counted(count, meaning)}.",
    )
