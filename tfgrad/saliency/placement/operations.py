"""What an operation of a network does with positions.

Four kinds are told apart: operations that move cells (`_MOVES`) are run on the coordinates as they
are; windows and sums over axes average them; any other operation whose output has the shape of an
input keeps its cells; what is left loses its place, such as the product of two tensors that both
depend on the image (attention).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.saliency.placement.positions import (
    PLANES,
    Pads,
    Positions,
    joined,
    pooled,
    side_by_side,
    transposed,
)
from tfgrad.saliency.placement.walk import LOST, Walk, rerun

_Rule = Callable[[Walk, tf.Operation, list[Any]], list[Any] | None]


def outputs(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> Sequence[Any] | None:
    """What is known of an operation's outputs; None if their places cannot be told.

    Args:
        walk: The run, for the numbers among the inputs.
        operation: An operation, of which an input has positions.
        inputs: What is known of its inputs.
    """
    kind = operation.type
    if kind in _RULES:
        found = _RULES[kind](walk, operation, inputs)
    elif kind in _MOVES:
        found = _moved(walk, operation, inputs)
    else:
        found = _cell_by_cell(walk, operation, inputs)
    return found


# Cell by cell


def _cell_by_cell(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """Activations, normalisation, sums, products, gates: outputs with the shape of an input."""
    cells = [value for value in inputs if isinstance(value, Positions)]
    shape = list(np.broadcast_shapes(*(value.shape for value in cells)))
    whole = [value for value in cells if value.shape == shape]
    # A gate or a mean acts on many cells and is at none of them.
    walk.sees(value for value in cells if value.shape != shape)
    whole = whole or [value.broadcast(shape) for value in cells]
    cell = joined(whole, added=operation.type in _SUMS)
    if operation.type in ("Mul", "RealDiv"):
        cell = _scaled(walk, operation, cell, inputs)
    elif operation.type == "FusedBatchNormV3":
        cell = _normalised(walk, operation, cell)
    cell = cell.times(_SLOPES.get(operation.type, 1.0))
    found: list[Any] = []
    for output in operation.outputs:
        larger = _filled(output.shape, cell.shape)
        if larger == cell.shape:
            found.append(cell)
        elif larger is not None and operation.type in _BROADCASTING:
            found.append(cell.broadcast(larger))
        else:
            found.append(None)
    return found if any(value is not None for value in found) else None


def _scaled(walk: Walk, operation: tf.Operation, cell: Positions, inputs: list[Any]) -> Positions:
    """The cells times a constant or a gate; where the constant is zero they are not seen."""
    for tensor, value in zip(operation.inputs, inputs, strict=True):
        if isinstance(value, Positions) and value.shape == cell.shape:
            continue
        factor = None if isinstance(value, Positions) else walk.number(tensor)
        if factor is None or not factor.size:
            return cell.times(_GATE)
        mean = float(np.mean(np.square(factor, dtype="float64")))
        if operation.type == "RealDiv":
            return cell.times(1 / max(mean, 1e-12))
        mask = factor != 0
        if mask.ndim and not mask.all() and mask.any():
            columns = cell.columns if mask.shape[-1] == 1 else cell.every_channel()
            cell = Positions(columns * mask, cell.shape[-1] // columns.shape[-1], cell.gain)
        return cell.times(mean)
    return cell.times(_GATE)


def _normalised(walk: Walk, operation: tf.Operation, cell: Positions) -> Positions:
    scale, variance = (walk.number(operation.inputs[i]) for i in (1, 4))
    if scale is None or variance is None or not variance.size:
        return cell
    gain = np.mean(scale.astype("float64") ** 2 / (variance + operation.get_attr("epsilon")))
    return cell.times(float(gain))


def _weights_gain(walk: Walk, tensor: tf.Tensor, outputs: int | None) -> float:
    """Σ w² of a kernel's inputs, as a mean over its outputs; 1 if its values are not known."""
    weights = walk.number(tensor)
    if weights is None or not outputs or not weights.size:
        return 1.0
    return float(np.sum(np.square(weights, dtype="float64"))) / outputs


def _filled(shape: tf.TensorShape, like: Sequence[int]) -> list[int] | None:
    """A static shape, with its unknown lengths taken from another; None if the ranks differ."""
    if shape.rank != len(like):
        return None
    sizes = [known or size for known, size in zip(shape.as_list(), like, strict=True)]
    return [like[0], *sizes[1:]]


# Moving cells


def _moved(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """The operation itself, run on every channel's coordinates."""
    cells = next(value for value in inputs if isinstance(value, Positions))
    arguments: list[Any] = []
    for tensor, value in zip(operation.inputs, inputs, strict=True):
        if isinstance(value, Positions):
            arguments.append(value.every_channel())
        elif tensor.dtype.is_floating and tensor.shape.rank:
            shape = _filled(tensor.shape, cells.shape)
            if shape is None:
                return None
            arguments.append(tf.zeros(shape, tf.float64))
        else:
            number = walk.number(tensor)
            if number is None:
                return None
            arguments.append(number)
    moved = [tf.cast(t, tf.float64) for t in rerun(operation, arguments)]
    if any(not t.shape.rank or t.shape[0] % PLANES for t in moved):
        return None
    return [Positions(t, 1, cells.gain) for t in moved]


def _reshape(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    cells, shape = inputs[0], walk.number(operation.inputs[1])
    if shape is None:
        known = operation.outputs[0].shape
        if not known.rank or known.as_list().count(None) > 1:
            return None
        shape = [-1 if size is None else size for size in known.as_list()]
    if len(shape) and shape[-1] == cells.shape[-1]:
        t = tf.reshape(cells.columns, [*shape[:-1], cells.columns.shape[-1]])
        moved = cells.like(t)
    else:
        moved = Positions(tf.reshape(cells.every_channel(), shape), 1, cells.gain)
    return [moved] if len(moved.shape) and moved.shape[0] % PLANES == 0 else None


def _transpose(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    cells, order = inputs[0], walk.number(operation.inputs[1])
    if order is None or order[0] != 0:
        return None
    if order[-1] == len(order) - 1:
        return [cells.like(tf.transpose(cells.columns, order))]
    return [Positions(tf.transpose(cells.every_channel(), order), 1, cells.gain)]


def _padding(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    pads = walk.number(operation.inputs[1])
    if pads is None or np.any(pads[0]):
        return None
    cells = inputs[0]
    if np.any(pads[-1]):
        cells = Positions(cells.every_channel(), 1, cells.gain)
    return [cells.padded([tuple(map(int, pair)) for pair in pads[1:]])]


def _to_batch(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
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


def _from_batch(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    blocks, crops = (walk.number(tensor) for tensor in operation.inputs[1:])
    if blocks is None or crops is None:
        return None
    t, parts = inputs[0].columns, int(np.prod(blocks))
    t = tf.reshape(tf.einsum("np...->pn...", tf.reshape(t, [-1, parts, *t.shape[1:]])), t.shape)
    return [inputs[0].like(rerun(operation, [t, blocks, crops])[0])]


def _concatenation(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
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
                cells[i] = Positions(nothing, channels, placed.gain)
        return [side_by_side(cells)]
    return _moved(walk, operation, [*cells, None])


def _resized(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    numbers = [walk.number(tensor) for tensor in operation.inputs[1:]]
    if any(number is None for number in numbers):
        return None
    cells: Positions = inputs[0]

    def resized(t: tf.Tensor) -> tf.Tensor:
        return tf.cast(rerun(operation, [t, *numbers])[0], tf.float64)

    return [cells.mapped(resized, lambda t: resized(tf.nn.max_pool2d(t, 3, 1, "SAME")))]


# Windows


def _window(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """Convolution and pooling of two axes."""
    kind, first = operation.type, _channels_first(operation)
    if kind in ("Conv2D", "DepthwiseConv2dNative"):
        size, channels = operation.inputs[1].shape[:2].as_list(), operation.inputs[1].shape[-1]
        steps = operation.get_attr("dilations")
    else:
        size, channels, steps = operation.get_attr("ksize"), None, [1] * 4
        size = size[2:] if first else size[1:3]
    if not isinstance(inputs[0], Positions) or None in size:
        return None
    strides = operation.get_attr("strides")
    strides, steps = (v[2:] if first else v[1:3] for v in (strides, steps))
    window = [(n - 1) * step + 1 for n, step in zip(size, steps, strict=True)]
    cells = _channels_last(inputs[0]) if first else inputs[0]
    pads = _pads(operation, cells.shape[1:3], window, strides, first)
    gain = 1.0
    if kind == "Conv2D":
        gain = _weights_gain(walk, operation.inputs[1], channels)
        cells = Positions(cells.average([3]).columns, channels, cells.gain)
    elif kind == "DepthwiseConv2dNative":
        gain = _weights_gain(walk, operation.inputs[1], channels * cells.shape[-1])
        cells = Positions(cells.columns, cells.repeats * channels, cells.gain)
    elif kind == "AvgPool":
        gain = 1 / float(np.prod(window))
    cells = pooled(cells, window, strides, pads).times(gain)
    return [_channels_ahead(cells) if first else cells] + [None] * (len(operation.outputs) - 1)


def _pads(
    operation: tf.Operation,
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    first: bool,
) -> Pads:
    """The padding of an axis of each length, in cells before and after it."""
    kind = operation.get_attr("padding")
    if kind == b"EXPLICIT":
        flat = operation.get_attr("explicit_paddings")
        flat = flat[4:] if first else flat[2:6]
        return [(flat[0], flat[1]), (flat[2], flat[3])]
    if kind == b"VALID":
        return [(0, 0), (0, 0)]
    pads = []
    for length, w, stride in zip(size, window, strides, strict=True):
        total = max((-(-length // stride) - 1) * stride + w - length, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def _transposed(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """Transposed convolution, with the kernel of the convolution that it transposes."""
    first = _channels_first(operation)
    filters, cells = operation.inputs[1], inputs[2]
    size = walk.number(operation.inputs[0])
    size = operation.outputs[0].shape.as_list() if size is None else list(size)
    size = size[2:] if first else size[1:3]
    window = filters.shape[:2].as_list()
    if not isinstance(cells, Positions) or None in (*size, *window):
        return None
    steps, strides = (
        v[2:] if first else v[1:3]
        for v in (operation.get_attr("dilations"), operation.get_attr("strides"))
    )
    window = [(n - 1) * step + 1 for n, step in zip(window, steps, strict=True)]
    pads = _pads(operation, size, window, strides, first)
    cells = _channels_last(cells) if first else cells
    channels = filters.shape[2]
    gain = _weights_gain(walk, filters, (channels or 1) * int(np.prod(strides)))
    cells = Positions(cells.average([3]).columns, channels or 1, cells.gain * gain)
    cells = transposed(cells, window, strides, [pad[0] for pad in pads], [int(n) for n in size])
    return [_channels_ahead(cells) if first else cells]


def _channels_first(operation: tf.Operation) -> bool:
    return operation.get_attr("data_format") == b"NCHW"


def _channels_last(cells: Positions) -> Positions:
    return Positions(tf.transpose(cells.every_channel(), [0, 2, 3, 1]), 1, cells.gain)


def _channels_ahead(cells: Positions) -> Positions:
    return Positions(tf.transpose(cells.every_channel(), [0, 3, 1, 2]), 1, cells.gain)


# Sums


def _reduced(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
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
        cells = Positions(tf.squeeze(cells.every_channel(), axes), 1, cells.gain)
    return [cells]


def _product(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
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
        cells = Positions(tf.linalg.matrix_transpose(cells.every_channel()), 1, cells.gain)
    inner = len(cells.shape) - 1 - own
    outer = len(cells.shape) - 2 + (1 - own)
    numbers = walk.number(matrix) if matrix.op.type in ("Const", "Cast") else None
    if inner == 0 or len(cells.shape) != operation.outputs[0].shape.rank:
        return None
    if numbers is not None and numbers.ndim == 2:
        weights = np.abs(numbers.T if turned[1 - own] else numbers).astype("float64")
        weights /= np.maximum(weights.sum(own, keepdims=True), 1e-12)
        t = cells.every_channel()
        t = tf.matmul(weights, t) if own else tf.matmul(t, weights)
        return [Positions(t, 1, cells.gain).local()]
    length = operation.outputs[0].shape[outer]
    if length is None:
        return None
    cells = cells.average([inner]).times(_weights_gain(walk, matrix, length))
    shape = cells.shape
    shape[outer] = length
    return [cells.broadcast(shape).local()]


def _einsum(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
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
    shape = _filled(operation.outputs[0].shape, t.shape.as_list())
    if shape is None:
        return None
    outer = int(np.prod([n for n, letter in zip(shape, target, strict=True) if letter not in kept]))
    gain = cells.gain * _weights_gain(walk, operation.inputs[1 - own], outer)
    return [Positions(t, 1, gain).broadcast(shape).local()]


# The mean square of the slope of an activation, and of a gate.
_SLOPES = {
    **dict.fromkeys(("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus"), 0.5),
    "Sigmoid": 1 / 16,
}
_GATE = 0.25
_SUMS = ("Add", "AddV2", "AddN", "Sub")
_MOVES = {
    *("StridedSlice", "Slice", "Tile", "Split", "SplitV", "Pack", "Unpack", "GatherV2"),
    *("ReverseV2", "Roll", "Squeeze", "ExpandDims", "SpaceToDepth", "DepthToSpace"),
    *("MirrorPad", "ExtractImagePatches", "BroadcastTo", "Concat"),
}
_BROADCASTING = {"Add", "AddV2", "Sub", "Mul", "RealDiv", "Maximum", "Minimum", "SelectV2"}

_RULES: dict[str, _Rule] = {
    "IdentityN": lambda walk, operation, inputs: inputs,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Pad": _padding,
    "PadV2": _padding,
    "SpaceToBatchND": _to_batch,
    "BatchToSpaceND": _from_batch,
    "ConcatV2": _concatenation,
    **dict.fromkeys(("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic"), _resized),
    **dict.fromkeys(("ResizeArea", "ScaleAndTranslate"), _resized),
    **dict.fromkeys(("Conv2D", "DepthwiseConv2dNative", "MaxPool", "AvgPool"), _window),
    "Conv2DBackpropInput": _transposed,
    **dict.fromkeys(("Mean", "Sum", "Max", "Min", "Prod", "EuclideanNorm"), _reduced),
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _product),
    "Einsum": _einsum,
}
