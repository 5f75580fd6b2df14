"""Gradients of pooling in slices, selections and sums."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.export.portable.windows import Axis, axis_of, entries, spread


def max_pool_gradient(
    operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]
) -> tf.Tensor | None:
    """The gradient goes to the first of the largest entries in row-major order."""
    x, y, gradient = tensors
    axes = _axes(operation, list(x.shape), list(y.shape))
    if axes is None:
        return None
    if len(axes) == 1:
        return gradient
    given: dict[tuple[int, ...], tf.Tensor] = {}
    rest, zero = gradient, tf.constant(0, gradient.dtype)
    for place, entry in entries(x, axes, x.dtype.min):
        largest = tf.equal(entry, y)
        given[place] = tf.where(largest, rest, zero)
        rest = tf.where(largest, zero, rest)
    return spread(given.__getitem__, axes)


def max_pool(
    operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]
) -> tf.Tensor | None:
    """The largest entry of each window."""
    found = _seen(operation, tensors[0], tensors[0].dtype.min)
    return None if found is None else functools.reduce(tf.maximum, found[1])


def average_pool(
    operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]
) -> tf.Tensor | None:
    """The mean of each window, without the padding."""
    found = _seen(operation, tensors[0], 0.0)
    if found is None:
        return None
    axes, seen = found
    return tf.add_n(seen) / tf.constant(_counts(axes), tensors[0].dtype)


def average_pool_gradient(
    operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]
) -> tf.Tensor | None:
    """The gradient is shared by the entries of a window, without the padding."""
    shape, gradient = values[0], tensors[1]
    if not isinstance(shape, np.ndarray):
        return None
    axes = _axes(operation, [int(n) for n in shape], list(gradient.shape))
    if axes is None:
        return None
    share = gradient / tf.constant(_counts(axes), gradient.dtype)
    return spread(lambda place: share, axes)


def _seen(
    operation: tf.Operation, x: tf.Tensor, fill: float
) -> tuple[list[Axis], list[tf.Tensor]] | None:
    """The windows of a pooling, and the entries that they have at each place."""
    axes = _axes(operation, list(x.shape), list(operation.outputs[0].shape), x.shape[0])
    return None if axes is None else (axes, [entry for _, entry in entries(x, axes, fill)])


def _counts(axes: list[Axis]) -> np.ndarray:
    """The number of entries in each window without the padding, [1, *outputs, 1]."""
    counts = np.ones([1] * (len(axes) + 2))
    for number, axis in enumerate(axes):
        first = np.arange(axis.outputs) * axis.stride - axis.before
        inside = np.minimum(first + axis.size, axis.length) - np.maximum(first, 0)
        counts = counts * inside.reshape([-1 if a == number + 1 else 1 for a in range(counts.ndim)])
    return counts


def _axes(
    operation: tf.Operation, old: list[Any], new: list[Any], batch: int | None = None
) -> list[Axis] | None:
    """The windows of a pooling; None if a shape is unknown or the channels come first.

    Args:
        operation: The operation.
        old, new: The shapes before and behind the pooling.
        batch: The first length of the shapes where it is known better than from them.
    """
    old, new = ([batch or shape[0], *shape[1:]] for shape in (old, new))
    layout = operation.get_attr("data_format").decode()
    if not layout.endswith("C") or None in [*old, *new]:
        return None
    sizes, strides = operation.get_attr("ksize"), operation.get_attr("strides")
    padding = operation.get_attr("padding").decode()
    if padding not in ("SAME", "VALID") or {sizes[0], sizes[-1], strides[0], strides[-1]} != {1}:
        return None
    numbers = zip(old, new, sizes, strides, strict=True)
    return [axis_of(*lengths, padding) for lengths in numbers][1:-1]
