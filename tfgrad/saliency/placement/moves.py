"""Operations that move cells, run on their coordinates as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.internal.graph_operations import rerun
from tfgrad.saliency.placement.positions import Positions, filled, side_by_side
from tfgrad.saliency.placement.walk import LOST, Walk


def moved(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """The operation itself, run on every channel's coordinates."""
    cells = next(value for value in inputs if isinstance(value, Positions))
    arguments: list[Any] = []
    for tensor, value in zip(operation.inputs, inputs, strict=True):
        if isinstance(value, Positions):
            arguments.append(value.every_channel())
        elif tensor.dtype.is_floating and tensor.shape.rank:
            shape = filled(tensor.shape, cells.shape)
            if shape is None:
                return None
            arguments.append(tf.zeros(shape, tf.float64))
        else:
            number = walk.number(tensor)
            if number is None:
                return None
            arguments.append(number)
    results = [tf.cast(t, tf.float64) for t in rerun(operation, arguments)]
    if any(not t.shape.rank or t.shape[0] % cells.held.count for t in results):
        return None
    return [cells.of(t) for t in results]


def reshape(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """Reshape; channels stay apart if the last axis stays."""
    cells, shape = inputs[0], walk.number(operation.inputs[1])
    if shape is None:
        known = operation.outputs[0].shape
        if not known.rank or known.as_list().count(None) > 1:
            return None
        shape = [-1 if size is None else size for size in known.as_list()]
    if len(shape) and shape[-1] == cells.shape[-1]:
        t = tf.reshape(cells.columns, [*shape[:-1], cells.columns.shape[-1]])
        result = cells.like(t)
    else:
        result = cells.of(tf.reshape(cells.every_channel(), shape))
    return [result] if len(result.shape) and result.shape[0] % cells.held.count == 0 else None


def transpose(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """Transposition of all axes but the batch."""
    cells, order = inputs[0], walk.number(operation.inputs[1])
    if order is None or order[0] != 0:
        return None
    if order[-1] == len(order) - 1:
        return [cells.like(tf.transpose(cells.columns, order))]
    return [cells.of(tf.transpose(cells.every_channel(), order))]


def padding(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """Padding, whatever the value."""
    pads = walk.number(operation.inputs[1])
    if pads is None or np.any(pads[0]):
        return None
    cells = inputs[0]
    if np.any(pads[-1]):
        cells = cells.of(cells.every_channel())
    return [cells.padded([tuple(map(int, pair)) for pair in pads[1:]])]


def to_batch(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """What dilated convolutions do first: padding, and every n-th cell apart."""
    pads = walk.number(operation.inputs[2])
    if pads is None:
        return None
    rest = len(inputs[0].shape) - 1 - len(pads)
    cells = inputs[0].padded([*(tuple(map(int, pair)) for pair in pads), *[(0, 0)] * rest])
    blocks = walk.number(operation.inputs[1])
    t = rerun(operation, [cells.columns, blocks, np.zeros_like(pads)])[0]
    # TensorFlow puts the parts before the examples, here they stand behind them.
    parts = int(np.prod(blocks))
    t = tf.reshape(tf.einsum("pn...->np...", tf.reshape(t, [parts, -1, *t.shape[1:]])), t.shape)
    return [cells.like(t)]


def from_batch(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """What dilated convolutions do last: the inverse of `to_batch`."""
    blocks, crops = (walk.number(tensor) for tensor in operation.inputs[1:])
    if blocks is None or crops is None:
        return None
    t, parts = inputs[0].columns, int(np.prod(blocks))
    t = tf.reshape(tf.einsum("np...->pn...", tf.reshape(t, [-1, parts, *t.shape[1:]])), t.shape)
    return [inputs[0].like(rerun(operation, [t, blocks, crops])[0])]


def concatenation(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """Concatenation; what does not depend on the image has no place."""
    axis = walk.number(operation.inputs[-1])
    cells = inputs[:-1]
    last = operation.outputs[0].shape.rank
    if axis is not None and last and int(axis) in (-1, last - 1):
        placed = next(value for value in cells if isinstance(value, Positions))
        for i, tensor in enumerate(operation.inputs[:-1]):
            if not isinstance(cells[i], Positions):
                channels = tensor.shape[-1]
                if channels is None:
                    return None
                nothing = tf.zeros_like(placed.columns[..., :1])
                cells[i] = placed.of(nothing, channels)
        return [side_by_side(cells)]
    known = [i for i, value in enumerate(cells) if isinstance(value, Positions)]
    first = cells[known[0]]
    is_map = axis is not None and last and last > first.held.coordinates + 1 and int(axis) % last
    if is_map and len(known) == 1 and LOST not in cells:
        return _surrounded(walk, cells[known[0]], int(axis), operation.inputs[:-1], known[0])
    return moved(walk, operation, [*cells, None])


def _surrounded(
    walk: Walk, cells: Positions, axis: int, parts: Sequence[tf.Tensor], place: int
) -> list[Any] | None:
    """Cells of a map among rows or columns that do not depend on the image: padding."""
    widths = [part.shape[axis] for part in parts]
    for i, part in enumerate(parts):
        if widths[i] is None and i != place:
            number = walk.number(part)
            if number is None:
                return None
            widths[i] = number.shape[axis]
    before, after = widths[:place], widths[place + 1 :]
    pads = [(0, 0)] * (len(cells.shape) - 1)
    pads[axis % len(cells.shape) - 1] = (sum(before), sum(after))
    return [cells.padded(pads)]


def resized(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """Resizing of two axes."""
    numbers = [walk.number(tensor) for tensor in operation.inputs[1:]]
    if any(number is None for number in numbers):
        return None
    cells: Positions = inputs[0]

    def larger(t: tf.Tensor) -> tf.Tensor:
        return tf.cast(rerun(operation, [t, *numbers])[0], tf.float64)

    return [cells.mapped(larger, lambda t: larger(tf.nn.max_pool2d(t, 3, 1, "SAME")))]


def cropped(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """Resized boxes, one of each image, that do not depend on the images."""
    boxes, owners, size = (walk.number(tensor) for tensor in operation.inputs[1:])
    cells: Positions = inputs[0]
    if boxes is None or owners is None or size is None:
        return None
    if not np.array_equal(owners, np.arange(cells.shape[0])) or np.ptp(boxes, 0).any():
        return None

    def box(t: tf.Tensor) -> tf.Tensor:
        count = t.shape[0]
        return tf.cast(rerun(operation, [t, boxes[:count], owners[:count], size])[0], tf.float64)

    return [cells.mapped(box, lambda t: box(tf.nn.max_pool2d(t, 3, 1, "SAME")))]
