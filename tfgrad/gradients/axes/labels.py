"""The axes of every tensor in a traced graph, followed from operation to operation.

Shapes alone do not tell [batch, height, width, channels] from [batch, channels, height, width], or
tokens that are positions from tokens that a network has mixed. Every rank-4 tensor therefore has a
label: the axes of the tensor that it was made from, permuted as its operations permute them. An
operation with a data format says which of them are channels, for all tensors of one origin.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import tensorflow as tf

# Operations with a data format, and those that have channels last.
_FORMATTED = {
    *("Conv2D", "DepthwiseConv2dNative", "MaxPool", "MaxPoolV2", "AvgPool"),
    *("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "SpaceToDepth", "DepthToSpace"),
}
_LAST = {
    *("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"),
    *("ExtractImagePatches", "ScaleAndTranslate", "CropAndResize"),
}


@dataclasses.dataclass(eq=False)
class Origin:
    """A tensor whose axes are not those of an earlier one.

    Attributes:
        spatial: Whether its axes are those of a map: of the image, or of what a spatial operation
            takes.
        channels: Its channel axis; None while no operation has told.
        certain: Whether an operation with a data format told it.
    """

    spatial: bool
    channels: int | None = None
    certain: bool = False

    def tell(self, axis: int, certain: bool) -> None:
        """Take a channel axis; one that is certain replaces one that is not."""
        if self.channels is None or (certain and not self.certain):
            self.channels, self.certain = axis, certain
        self.spatial = self.spatial or certain


class Label(NamedTuple):
    """The axes of a rank-4 tensor: axis i is axis `axes[i]` of its origin."""

    origin: Origin
    axes: tuple[int, ...] = (0, 1, 2, 3)

    def channels(self, default: int) -> int:
        """The channel axis of the tensor; that of its origin is `default` if nothing told it."""
        axis = self.origin.channels
        return self.axes.index(default if axis is None else axis)


class Grid(NamedTuple):
    """Tokens [batch, n, channels] that are the positions of a map, row by row, from `first` on."""

    height: int
    width: int
    first: int = 0


class Labels:
    """The labels of a graph that is being built, and the grids that its tokens come from.

    Args:
        default: The channel axis where nothing tells it.
        batch: The batch size, which no other axis has; None if it is unknown.
    """

    def __init__(self, default: int, batch: int | None) -> None:
        self.default, self.batch = default, batch
        self.grids: dict[int, Grid] = {}  # by the number of tokens
        self._labels: dict[str, Label] = {}
        self._parts: set[str] = set()  # what dilated convolutions stack on the batch axis
        self._done = 0

    def of(self, tensor: Any) -> Label | None:
        """The label of a tensor of the graph; None if it has none."""
        if not tf.is_tensor(tensor) or not hasattr(tensor, "op") or tensor.shape.rank != 4:
            return None
        return self._labels.get(tensor.name)

    def put(self, tensor: tf.Tensor, label: Label) -> None:
        """Give a tensor a label."""
        self._labels[tensor.name] = label

    def tell(self, tensor: Any, axis: int, certain: bool = True) -> None:
        """Take that an axis of a tensor is its channels."""
        label = self.of(tensor)
        if label is not None and axis % 4:
            label.origin.tell(label.axes[axis % 4], certain)

    def advance(self, graph: tf.Graph) -> None:
        """Label what was added to the graph since the last call."""
        operations = graph.get_operations()
        for operation in operations[self._done :]:
            self._follow(operation)
        self._done = len(operations)

    # Inside

    def _follow(self, op: tf.Operation) -> None:
        if op.type == "Reshape":
            self._find_grid(op.inputs[0].shape, op.outputs[0].shape, self.of(op.inputs[0]))
        elif op.type == "ConcatV2":
            self._find_joined(op)
        inputs = [t for t in op.inputs if self.of(t) is not None]
        parts = op.type == "SpaceToBatchND" or any(t.name in self._parts for t in op.inputs)
        if parts and op.type != "BatchToSpaceND":
            self._parts.update(output.name for output in op.outputs)
        for output in op.outputs:
            if output.shape.rank == 4 and (parts or self._is_batched(output.shape)):
                label = self._label_of(op, inputs, output)
                if label is not None:
                    self.put(output, label)

    def _label_of(self, op: tf.Operation, inputs: list[Any], output: Any) -> Label | None:
        if not inputs:
            grid = (output.shape[1], output.shape[2])
            of_tokens = any(grid == (g.height, g.width) for g in self.grids.values())
            return Label(Origin(of_tokens)) if op.type == "Reshape" else None
        # Of several, the one that is not broadcast.
        like = next((t for t in inputs if t.shape.is_compatible_with(output.shape)), inputs[0])
        label = self._labels[like.name]
        if op.type in _FORMATTED or op.type in _LAST:
            return self._formatted(op, label)
        if op.type == "Transpose":
            order = tf.get_static_value(op.inputs[1])
            return None if order is None else Label(label.origin, _permuted(label.axes, order))
        if op.type == "Einsum":
            return self._einsum(op, like, label)
        if op.type == "Reshape" and not output.shape.is_compatible_with(like.shape):
            return self._label_of(op, [], output)
        return label

    def _formatted(self, op: tf.Operation, label: Label) -> Label:
        axis = 3
        if op.type in _FORMATTED and op.get_attr("data_format").startswith(b"NCHW"):
            axis = 1
        label.origin.tell(label.axes[axis], certain=True)
        if label.channels(self.default) == axis:
            return label
        return Label(Origin(True, axis, True))  # other axes than before are positions now

    def _einsum(self, op: tf.Operation, like: Any, label: Label) -> Label | None:
        sides, _, result = op.get_attr("equation").decode().partition("->")
        operands = sides.split(",")
        letters = operands[[t is like for t in op.inputs].index(True)]
        if len(letters) != 4 or len(result) != 4 or "." in letters + result:
            return None
        new = [i for i, letter in enumerate(result) if letter not in letters]
        gone = [i for i, letter in enumerate(letters) if letter not in result]
        if len(new) != len(gone) or len(new) > 1:
            return None
        if gone:
            label.origin.tell(label.axes[gone[0]], certain=False)
        order = [gone[0] if i in new else letters.index(c) for i, c in enumerate(result)]
        return Label(label.origin, _permuted(label.axes, order))

    def _find_grid(self, old: tf.TensorShape, new: tf.TensorShape, label: Label | None) -> None:
        """Take the grid of a reshaping that makes one axis of a map's height and width."""
        if old.rank is None or new.rank is None or old.rank < 4 or new.rank < 3:
            return
        if None in (*old[1:], *new[1:]) or not self._is_batched(new):
            return
        for axis, merged in _merged(old[1:], new[1:]):
            if len(merged) != 2:
                continue
            places = {place + 1 for place in merged}
            if old.rank == 4:
                known = label is not None and label.origin.spatial
                if label is None or not known or label.channels(self.default) in places:
                    continue
            elif axis:
                continue
            height, width = (old[place + 1] for place in merged)
            self.grids[height * width] = Grid(height, width)

    def _find_joined(self, op: tf.Operation) -> None:
        """Take where the positions are among tokens that others were joined to."""
        *parts, axis = op.inputs
        output = op.outputs[0].shape
        if output.rank != 3 or tf.get_static_value(axis) not in (1, -2) or output[1] is None:
            return
        sizes = [part.shape[1] for part in parts]
        for place, size in enumerate(sizes):
            if None not in sizes and size in self.grids and size < output[1]:
                grid = self.grids[size]
                first = sum(sizes[:place]) + grid.first
                self.grids[output[1]] = grid._replace(first=first)
                return

    def _is_batched(self, shape: tf.TensorShape) -> bool:
        return shape[0] in (self.batch, None)


def _permuted(axes: tuple[int, ...], order: Iterable[int]) -> tuple[int, ...]:
    return tuple(axes[int(i)] for i in order)


def _merged(old: Any, new: Any) -> list[tuple[int, list[int]]]:
    """(new axis, old axes) of a reshaping's new axes that are products of old ones above 1."""
    found: list[tuple[int, list[int]]] = []
    place = 0
    for axis, size in enumerate(new):
        taken: list[int] = []
        while place < len(old) and math.prod(old[i] for i in taken) < size:
            taken.append(place)
            place += 1
        if math.prod(old[i] for i in taken) != size:
            return found  # an old axis was split
        found.append((axis, [i for i in taken if old[i] > 1]))
    return found
