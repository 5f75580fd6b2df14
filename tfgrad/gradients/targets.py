"""The scalar per example that is differentiated (thesis §2.4.1).

A gradient needs one scalar per example. A *target* names it:

| target        | scalar                                                    |
|---------------|-----------------------------------------------------------|
| `"label"`     | the logit of the true class                               |
| `"predicted"` | the largest logit, its index frozen                       |
| `"all"`       | every logit: the full Jacobian                            |
| an int        | that class's logit, for every example                     |
| ints [batch]  | one class per example; −1 stands for the predicted class  |
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad import losses
from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import is_integer, one_of

NAMES = ("label", "predicted", "all")


def validated(target: Any, allow_all: bool = True) -> Any:
    """Check a target and convert it to one that `classes` takes.

    Args:
        target: A name, an int, or ints [batch]; None means `"predicted"`.
        allow_all: Whether `"all"` is allowed.

    Returns:
        A name, an int, or an int32 tensor.

    Raises:
        ArgumentError: The target is none of these.
    """
    if target is None:
        return "predicted"
    if isinstance(target, str):
        allowed = NAMES if allow_all else NAMES[:2]
        if target not in allowed:
            raise ArgumentError(
                f"target: got {target!r}; expected one of {', '.join(map(repr, allowed))}, "
                "a class index, or one class index per example."
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


def labels(y: Any, classes: int | None) -> tf.Tensor:
    """Integer labels [batch] from the y of `fit`.

    Args:
        y: Integers [batch] or [batch, 1], values in [0, classes).
        classes: The number of logits.

    Raises:
        ArgumentError: There are no labels, or they are one-hot or not integers.
    """
    if y is None:
        raise ArgumentError(
            "y: got None; a penalty on the label's logit needs labels; try passing y, or "
            "target='predicted'."
        )
    if classes == 1:
        raise ArgumentError(
            "target: got 'label' on a network with one logit, which has no logit per label; try "
            "target=0, or a network with two logits."
        )
    if isinstance(y, list | tuple) and not any(tf.is_tensor(v) for v in y):
        y = np.asarray(y)
    if tf.nest.is_nested(y):
        raise ArgumentError(
            f"y: got a {type(y).__name__}; expected one tensor of integer class indices [batch] "
            "for a penalty on the label's logit."
        )
    y = tf.convert_to_tensor(y)
    if y.shape.rank == 2 and y.shape[-1] == 1:
        y = y[:, 0]
    if y.shape.rank not in (None, 1):
        hint = " (one-hot rows?)" if y.shape[-1] == classes else ""
        raise ArgumentError(
            f"y: got shape {y.shape}{hint}; expected integer class indices of shape [batch]; "
            "try y.argmax(-1) with SparseCategoricalCrossentropy(from_logits=True), or "
            "target='predicted'."
        )
    if not y.dtype.is_integer:
        raise ArgumentError(
            f"y: got dtype {y.dtype.name}; expected integer class indices in [0, {classes}); "
            "try y.astype('int32')."
        )
    return tf.cast(y, tf.int32)


def classes(target: Any, logits: tf.Tensor, y: Any = None) -> tf.Tensor:
    """The class index of each example's scalar.

    Args:
        target: A validated target other than `"all"`.
        logits: [batch, classes].
        y: Labels, needed for `"label"`.

    Returns:
        int32 [batch]. No gradient flows through the choice of the largest logit.
    """
    count = logits.shape[-1]
    if isinstance(target, str) and target == "label":
        return _inside(labels(y, count), count, "y", lowest=0)
    predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
    if isinstance(target, str):
        return predicted
    if isinstance(target, int):
        if count is not None and target >= count:
            raise ArgumentError(
                f"target: got class {target}; the model has {count} logits, so expected 0 to "
                f"{count - 1}."
            )
    else:
        if target.shape.rank == 1 and not target.shape.is_compatible_with(predicted.shape):
            raise ArgumentError(
                f"target: got {target.shape[0]} classes for a batch of {predicted.shape[0]}; "
                "expected one per example."
            )
        target = _inside(target, count, "target", lowest=-1)
    chosen = tf.broadcast_to(target, tf.shape(predicted))
    return tf.where(chosen < 0, predicted, chosen)


def select(values: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """The entry of each row that `indices` names: [batch, classes], [batch] → [batch]."""
    return tf.reduce_sum(values * tf.one_hot(indices, tf.shape(values)[-1], dtype=values.dtype), -1)


def scalar(logits: tf.Tensor, indices: tf.Tensor, of: str, temperature: float = 1.0) -> tf.Tensor:
    """The scalar of each example, [batch]: a logit, or what softmax makes of it.

    Args:
        logits: [batch, classes].
        indices: The class of each example, int32 [batch].
        of: `"logit"`; `"probability"` or `"log_probability"` of softmax(logits / temperature).
        temperature: The temperature of that softmax; it does not change a logit.

    Raises:
        ArgumentError: `of` is none of these.
    """
    if one_of("of", of, ("logit", "probability", "log_probability")) == "logit":
        return select(logits, indices)
    logits = logits if temperature == 1.0 else logits / temperature
    if of == "log_probability":
        return losses.log_probability(logits, indices)
    return select(tf.nn.softmax(logits), indices)


def to_config(target: Any) -> Any:
    """A target as JSON can hold it."""
    return target.numpy().tolist() if tf.is_tensor(target) else target


def _inside(indices: tf.Tensor, count: int | None, name: str, lowest: int) -> tf.Tensor:
    """The indices, checked to be those of logits; an absent class would select zeros."""
    if count is None:
        return indices
    inside = tf.reduce_all(tf.logical_and(indices >= lowest, indices < count))
    low, high = tf.reduce_min(indices), tf.reduce_max(indices)
    expected = f"expected {lowest} to {count - 1}, the model has {count} logits"
    if tf.executing_eagerly():
        if not inside:
            raise ArgumentError(f"{name}: got classes from {low} to {high}; {expected}.")
        return indices
    check = tf.debugging.Assert(inside, [f"{name}: {expected}; got from", low, "to", high])
    # XLA drops assertions, and has no operation to depend on.
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(indices)
