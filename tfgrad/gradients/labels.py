"""The labels of a batch as class indices: integers, whole floats, bools or one-hot rows.

`fit` passes to Keras what Keras takes; whatever needs the class of an example reads it here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.models.output_meaning import EXCLUSIVE, INDEPENDENT, REGRESSION

# How the messages of `conditions` begin, which `training` translates.
NOT_WHOLE = "y: got labels that are no whole numbers, such as"
NOT_ONE_HOT = "y: got a row that is not one-hot:"
SEVERAL = (
    "y: target 'label' needs one label per example; try target='predicted', a class or 'all'. Got"
)

# (a scalar bool that must hold, the message where it does not, the values that the message shows)
Condition = tuple[tf.Tensor, str, tf.Tensor]


def class_indices(y: Any, classes: int | None, meaning: str = EXCLUSIVE) -> tf.Tensor:
    """The class of each example, from labels in any form that Keras takes.

    Args:
        y: Class indices [batch] or [batch, 1], integers, bools or floats that are whole numbers;
            or one-hot rows [batch, classes]. The values are checked, eagerly or by assertions.
        classes: The number of classes; None if it is unknown.
        meaning: What the outputs mean, see `tfgrad.models.output_meaning`.

    Returns:
        int32 [batch], not yet checked to be below `classes`.

    Raises:
        ArgumentError: There are no labels or no classes; y has another shape or values; or a row
            names several labels.
    """
    y = _tensor(y, classes, meaning)
    conditions = _conditions(y, meaning)
    if tf.executing_eagerly():
        for holds, message, shown in conditions:
            if not holds:
                raise ArgumentError(f"{message} {np.asarray(shown).tolist()}.")
        return _indices(y)
    checks = [tf.debugging.Assert(holds, [message, shown]) for holds, message, shown in conditions]
    # XLA drops assertions, and has no operation to depend on.
    with tf.control_dependencies([check for check in checks if check is not None]):
        return _indices(tf.identity(y))


def conditions(y: Any, classes: int | None, meaning: str = EXCLUSIVE) -> list[Condition]:
    """What must hold of the values of y, for code that assertions do not reach, such as XLA.

    The arguments and errors are those of `class_indices`.
    """
    return _conditions(_tensor(y, classes, meaning), meaning)


def is_rows(y: Any) -> bool:
    """Whether labels have the shape of one row per example, [batch, more than one]."""
    return len(y.shape) == 2 and y.shape[-1] != 1


def _tensor(y: Any, classes: int | None, meaning: str) -> tf.Tensor:
    """y as a tensor [batch] or [batch, classes] of which the values are left to check."""
    if meaning == REGRESSION:
        raise ArgumentError(
            "target: got 'label' on outputs of a regression, which has no classes; expected the "
            "index of an output, target=0 for the first; or say outputs='binary', 'exclusive' or "
            "'independent'."
        )
    if y is None:
        raise ArgumentError(
            "y: got None; a penalty on the label's logit needs labels; try passing y, or "
            "target='predicted'."
        )
    if isinstance(y, list | tuple) and not any(tf.is_tensor(v) for v in y):
        y = np.asarray(y)
    if tf.nest.is_nested(y):
        raise ArgumentError(
            f"y: got a {type(y).__name__}; expected one tensor of class indices [batch] "
            "for a penalty on the label's logit."
        )
    y = tf.convert_to_tensor(y)
    if not (y.dtype.is_integer or y.dtype.is_floating or y.dtype.is_bool):
        raise ArgumentError(
            f"y: got dtype {y.dtype.name}; expected class indices in [0, {classes}); try "
            "y.astype('int32')."
        )
    if y.shape.rank == 2 and y.shape[-1] == 1:
        return y[:, 0]
    fits = y.shape.rank == 2 and y.shape[-1] is not None and classes in (None, y.shape[-1])
    if y.shape.rank not in (None, 1) and not fits:
        expected = "[batch]" if classes is None else f"[batch], or one-hot rows [batch, {classes}]"
        raise ArgumentError(
            f"y: got shape {y.shape}; expected class indices of shape {expected}; or try "
            "target='predicted'."
        )
    return y


def _conditions(y: tf.Tensor, meaning: str) -> list[Condition]:
    if y.shape.rank == 2:
        values = tf.cast(y, y.dtype if y.dtype.is_floating else tf.float32)
        one_hot = (tf.reduce_sum(values, -1) == 1) & tf.reduce_all(
            (values == 0) | (values == 1), -1
        )
        message = SEVERAL if meaning == INDEPENDENT else NOT_ONE_HOT
        return [(tf.reduce_all(one_hot), message, _first(values, ~one_hot))]
    if y.dtype.is_floating:
        # Written so that NaN is no whole number.
        whole = (y == tf.round(y)) & (tf.abs(y) < 2**31)
        return [(tf.reduce_all(whole), NOT_WHOLE, _first(y, ~whole))]
    return []


def _first(values: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """The first value or row that is chosen, as an array of none or one."""
    return tf.boolean_mask(values, chosen)[:1]


def _indices(y: tf.Tensor) -> tf.Tensor:
    if y.shape.rank != 2:
        return tf.cast(y, tf.int32)
    values = tf.cast(y, y.dtype if y.dtype.is_floating else tf.float32)
    return tf.argmax(values, -1, tf.int32)
