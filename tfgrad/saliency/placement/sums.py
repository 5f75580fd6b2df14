"""Sums over axes and products with weights: means over cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.saliency.placement.positions import Positions, filled
from tfgrad.saliency.placement.walk import LOST, Walk


def reduced(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """A sum, mean or maximum over axes."""
    axes = walk.number(operation.inputs[1])
    if axes is None or not isinstance(inputs[0], Positions):
        return None
    cells = inputs[0]
    rank = len(cells.shape)
    axes = sorted({int(axis) % rank for axis in np.reshape(axes, [-1])})
    if 0 in axes:
        return None
    cells = cells.average(axes).local()
    if not operation.get_attr("keep_dims"):
        cells = cells.of(tf.squeeze(cells.every_channel(), axes))
    return [cells]


def transformed(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """A Fourier transform of the last axes: every frequency depends on all their cells."""
    cells = inputs[0]
    shape = filled(operation.outputs[0].shape, cells.shape)
    if shape is None:
        return None
    kind = operation.type
    count = int(kind[-2]) if kind.endswith("D") else 1
    rank = len(shape)
    return [cells.average(list(range(rank - count, rank))).broadcast(shape).local()]


def product(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """A matrix product with a matrix of weights, or a constant one, whose zeros count."""
    placed = [isinstance(value, Positions) for value in inputs]
    if LOST in inputs or all(placed):
        return None
    own = placed.index(True)
    cells, matrix = inputs[own], operation.inputs[1 - own]
    names = ("transpose_a", "transpose_b") if operation.type == "MatMul" else ("adj_x", "adj_y")
    turned = [bool(operation.get_attr(name)) for name in names]
    # The cells are turned so that the product sums over their last axis, or the one before.
    if turned[own]:
        cells = cells.of(tf.linalg.matrix_transpose(cells.every_channel()))
    inner = len(cells.shape) - 1 - own
    outer = len(cells.shape) - 2 + (1 - own)
    numbers = walk.number(matrix) if matrix.op.type in ("Const", "Cast") else None
    if inner == 0 or len(cells.shape) != operation.outputs[0].shape.rank:
        return None
    if numbers is not None and numbers.ndim == 2:
        weights = np.abs(numbers.T if turned[1 - own] else numbers).astype("float64")
        weights /= np.maximum(weights.sum(own, keepdims=True), 1e-12)
        return [_weighted(cells, weights, own).local()]
    length = operation.outputs[0].shape[outer]
    if length is None:
        return None
    cells = cells.average([inner]).times(walk.gain(matrix, length))
    shape = cells.shape
    shape[outer] = length
    return [cells.broadcast(shape).local()]


def _weighted(cells: Positions, weights: np.ndarray, own: int) -> Positions:
    """The product with known weights, after (own = 0) or before the cells."""
    used = (weights if own else weights.T) > 0

    def mean(t: tf.Tensor) -> tf.Tensor:
        return tf.matmul(weights, t) if own else tf.matmul(t, weights)

    def largest(t: tf.Tensor) -> tf.Tensor:
        axis = t.shape.rank - 1 - own
        parts = [tf.gather(t, np.flatnonzero(row), axis=axis) for row in used]
        return tf.concat([tf.reduce_max(part, axis, keepdims=True) for part in parts], axis)

    return cells.of(cells.every_channel()).mapped(mean, largest)


def einsum(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """A sum of products with weights: a mean over the axes that the weights share."""
    equation = operation.get_attr("equation").decode()
    sources, target = equation.split("->")
    names = sources.split(",")
    placed = [i for i, value in enumerate(inputs) if isinstance(value, Positions)]
    if len(placed) != 1 or LOST in inputs or "." in equation:
        return None
    (own,) = placed
    cells, letters = inputs[own], names[own]
    if letters[0] != target[0] or len(set(letters)) < len(letters):
        return None
    gone = [i for i, letter in enumerate(letters) if letter not in target]
    if gone:
        cells = cells.average(gone)
    kept = [letter for letter in letters if letter in target]
    t = tf.squeeze(cells.every_channel(), gone)
    t = tf.transpose(t, [kept.index(letter) for letter in target if letter in kept])
    for axis, letter in enumerate(target):
        if letter not in kept:
            t = tf.expand_dims(t, axis)
    shape = filled(operation.outputs[0].shape, t.shape.as_list())
    if shape is None:
        return None
    outer = int(np.prod([n for n, letter in zip(shape, target, strict=True) if letter not in kept]))
    gain = walk.gain(operation.inputs[1 - own], outer)
    return [cells.of(t).times(gain).broadcast(shape).local()]
