"""Choices that a target may leave open: a class, or the place of a detection."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.targets.base import checked
from tfgrad.internal.arguments import is_integer


def choices(name: str, given: Any, what: str = "class") -> Any:
    """An index ≥ 0, None for one that is left open, or a tensor int32 [batch].

    Args:
        name: The argument.
        given: An integer, integers [batch] of which −1 is left open, or None.
        what: What the index is one of, for messages.

    Raises:
        ArgumentError: It is none of these.
    """
    if given is None or is_integer(given):
        if given is not None and given < 0:
            raise ArgumentError(
                f"{name}: got {what} {given}; expected an index from 0 up, or None."
            )
        return None if given is None else int(given)
    found, dtype = array(given)
    if dtype is None or not dtype.is_integer or len(found.shape) != 1:
        raise ArgumentError(
            f"{name}: got {given!r}; expected a {what} index, one index per example, or None."
        )
    return tf.cast(found, tf.int32)


def chosen(
    name: str,
    given: Any,
    otherwise: tf.Tensor,
    count: Any,
    what: str = "class",
    lowest: int = -1,
) -> tf.Tensor:
    """The index of each example, int32 [batch]; `otherwise` where it is left open.

    Args:
        name: The argument.
        given: What `choices` returned.
        otherwise: The index where it is left open, int32 [batch].
        count: The number of indices: an int, a scalar tensor, or None where it is unknown.
        what: What the index is one of, for messages.
        lowest: -1; 0 where a tensor may leave none open.

    Raises:
        ArgumentError: There is no such index, or not one for each example.
    """
    if given is None:
        return otherwise
    known = is_integer(count)
    if isinstance(given, int) and (count is None or known):
        if known and given >= count:
            raise ArgumentError(f"{name}: got {what} {given}; expected 0 to {count - 1}.")
        return tf.fill(tf.shape(otherwise), given)
    if isinstance(given, int):
        given = tf.fill(tf.shape(otherwise), given)
    if not given.shape.is_compatible_with(otherwise.shape):
        raise ArgumentError(
            f"{name}: got {given.shape[0]} indices; expected one {what} for each of "
            f"{otherwise.shape[0]} examples."
        )
    if count is not None:
        low, high = tf.reduce_min(given), tf.reduce_max(given)
        given = checked(
            given,
            tf.reduce_all((given >= lowest) & (given < count)),
            *(f"{name}: got {what} indices from", low, "to", high, "; expected 0 to", count - 1),
            f", or -1 for a {what} that is left open." if lowest else ".",
        )
    return tf.where(given < 0, otherwise, given) if lowest else given


def array(given: Any) -> tuple[Any, tf.DType | None]:
    """A tensor as it is, anything else as a NumPy array; and its type, None if not of numbers."""
    found = given if tf.is_tensor(given) else np.asarray(given)
    numbers = tf.is_tensor(given) or found.dtype.kind in "biuf"
    return found, tf.as_dtype(found.dtype) if numbers else None


def listed(value: Any) -> Any:
    """A choice as JSON and messages hold it."""
    return value.numpy().tolist() if tf.is_tensor(value) and hasattr(value, "numpy") else value
