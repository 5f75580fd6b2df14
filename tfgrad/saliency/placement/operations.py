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

from tfgrad.saliency.placement import moves, sums, windows
from tfgrad.saliency.placement.positions import Positions, filled, joined
from tfgrad.saliency.placement.walk import Walk

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
        found = moves.moved(walk, operation, inputs)
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
        larger = filled(output.shape, cell.shape)
        if larger == cell.shape or (larger is not None and operation.type in _SAME):
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
            cell = cell.of(columns * mask, cell.shape[-1] // columns.shape[-1])
        return cell.times(mean)
    return cell.times(_GATE)


def _normalised(walk: Walk, operation: tf.Operation, cell: Positions) -> Positions:
    scale, variance = (walk.number(operation.inputs[i]) for i in (1, 4))
    if scale is None or variance is None or not variance.size:
        return cell
    gain = np.mean(scale.astype("float64") ** 2 / (variance + operation.get_attr("epsilon")))
    return cell.times(float(gain))


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

# Outputs have the shape of the one input that is no weight, whatever shape the graph states: it is
# wrong after a tf.cond under a persistent tape.
_SAME = {"Identity", "BiasAdd", "FusedBatchNormV3", *_SLOPES}

_FOURIER = ("FFT", "IFFT", "RFFT", "IRFFT")

_RULES: dict[str, _Rule] = {
    "IdentityN": lambda walk, operation, inputs: inputs,
    "Reshape": moves.reshape,
    "Transpose": moves.transpose,
    "Pad": moves.padding,
    "PadV2": moves.padding,
    "SpaceToBatchND": moves.to_batch,
    "BatchToSpaceND": moves.from_batch,
    "ConcatV2": moves.concatenation,
    "CropAndResize": moves.cropped,
    **dict.fromkeys(("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic"), moves.resized),
    **dict.fromkeys(("ResizeArea", "ScaleAndTranslate"), moves.resized),
    **dict.fromkeys(("Conv2D", "DepthwiseConv2dNative", "MaxPool", "AvgPool"), windows.window),
    **dict.fromkeys(("Conv3D", "MaxPool3D", "AvgPool3D"), windows.window),
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), windows.transposed_window),
    **dict.fromkeys(("Mean", "Sum", "Max", "Min", "Prod", "EuclideanNorm"), sums.reduced),
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), sums.product),
    "Einsum": sums.einsum,
    **{f"{kind}{axes}": sums.transformed for kind in _FOURIER for axes in ("", "2D", "3D")},
}
