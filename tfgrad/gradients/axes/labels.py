"""The axes of every tensor in a traced graph, followed from operation to operation.

Shapes alone do not tell [batch, height, width, channels] from [batch, channels, height, width], a
series with channels from a grey image, or tokens that are positions from tokens that a network has
mixed. Every tensor made of the input therefore has a label: the axes of the tensor that it was made
from, permuted as its operations permute them, with the axes of length 1 that they add. An operation
with a data format says which of them are channels, for all tensors of one origin; if those are an
added axis, the origin has none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgrad.gradients.axes.formats import default_axis

_UNKNOWN = 1013  # a prime in the place of a length that a graph leaves open

# Operations with a data format, and those that have channels last.
_FORMATTED = {
    *("Conv2D", "DepthwiseConv2dNative", "MaxPool", "MaxPoolV2", "AvgPool"),
    *("Conv3D", "MaxPool3D", "AvgPool3D"),
    *("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "SpaceToDepth", "DepthToSpace"),
}
_LAST = {
    *("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"),
    *("ExtractImagePatches", "ScaleAndTranslate", "CropAndResize"),
}


# Operations that add and remove axes, and those that sum over the last one.
_REGROUPING = ("ExpandDims", "Squeeze", "StridedSlice")
_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")

NO_CHANNELS = 0  # in the place of a channel axis


@dataclasses.dataclass(eq=False)
class Origin:
    """A tensor whose axes are not those of an earlier one.

    Attributes:
        spatial: Whether its axes are those of a map: of the image, or of what a spatial operation
            takes.
        channels: Its channel axis, `NO_CHANNELS` if it has none; None while no operation has told.
        certain: Whether an operation with a data format told it.
        rank: The number of its axes.
    """

    spatial: bool
    channels: int | None = None
    certain: bool = False
    rank: int = 4

    def tell(self, axis: int, certain: bool) -> None:
        """Take a channel axis; one that is certain replaces one that is not."""
        if self.channels is None or (certain and not self.certain):
            self.channels, self.certain = axis, certain
        self.spatial = self.spatial or certain


class Label(NamedTuple):
    """The axes of a tensor: axis i is axis `axes[i]` of its origin, or an added one if None.

    Axes of the origin that are `turned` run backwards in the tensor. `is_lost` says that a layer
    ran step by step since the origin, after which coordinates no longer show it. `joined` is the
    first and the number of the steps along axis 1 that are positions, where learned tokens were
    joined to them; None if all are.
    """

    origin: Origin
    axes: tuple[int | None, ...]
    turned: frozenset[int] = frozenset()
    is_lost: bool = False
    joined: tuple[int, int] | None = None

    @classmethod
    def of(cls, origin: Origin) -> Label:
        """The label of an origin itself."""
        return cls(origin, tuple(range(origin.rank)))

    def tell(self, axis: int, certain: bool) -> None:
        """Take that an axis of the tensor is its channels.

        It says nothing of an origin that has lost an axis: slices of a volume may become channels.
        """
        told = self.axes[axis]
        lost = set(range(self.origin.rank)) - set(self.axes)
        if not lost or lost == {self.origin.channels}:
            self.origin.tell(NO_CHANNELS if told is None else told, certain)
        else:
            self.origin.spatial = self.origin.spatial or certain

    def reversed_along(self, axis: int, length: int | None) -> Label:
        """The label after a tensor's axis of some length was reversed."""
        joined = self.joined
        if joined is not None and axis % len(self.axes) == 1:
            joined = None if length is None else (length - sum(joined), joined[1])
        own = self.axes[axis]
        turned = self.turned if own is None else self.turned ^ {own}
        return self._replace(turned=turned, joined=joined)

    def permuted(self, order: Iterable[int]) -> Label:
        """The label after the axes were put in another order."""
        order = [int(i) for i in order]
        joined = self.joined if order[1:2] == [1] else None
        return self._replace(axes=tuple(self.axes[i] for i in order), joined=joined)

    def backwards(self) -> tuple[int, ...]:
        """The axes of the tensor that run backwards, where coordinates do not show it."""
        return tuple(i for i, axis in enumerate(self.axes) if self.is_lost and axis in self.turned)

    def channels(self) -> int | None:
        """The channel axis of the tensor, by default if nothing told it; None if it has none."""
        axis = self.origin.channels
        if axis is None:
            axis = default_axis(self.origin.rank) if self.origin.rank > 2 else NO_CHANNELS
        return self.axes.index(axis) if axis and axis in self.axes else None

    def positions(self) -> tuple[int, ...]:
        """The axes of the tensor that are positions of its origin."""
        channels = self.channels()
        known = ((i, axis) for i, axis in enumerate(self.axes) if axis)
        return tuple(i for i, axis in known if i != channels)


class Grid(NamedTuple):
    """Tokens [batch, n, channels] that are the positions of a map, row by row, from `first` on.

    A map of a volume has a `depth` above 0, and is read slice by slice.
    """

    height: int
    width: int
    first: int = 0
    depth: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """The lengths of the map's axes."""
        return (self.height, self.width) if not self.depth else (self.depth, *self[:2])


class Labels:
    """The labels of a graph that is being built, and the grids that its tokens come from.

    Args:
        batch: The batch size, which no other axis has; None if it is unknown.
    """

    def __init__(self, batch: int | None) -> None:
        self.batch = batch
        self.grids: dict[int, Grid] = {}  # by the number of tokens
        self._labels: dict[str, Label] = {}
        self._parts: set[str] = set()  # what dilated convolutions stack on the batch axis
        self._done = 0

    def of(self, tensor: Any) -> Label | None:
        """The label of a tensor of the graph; None if it has none."""
        if not tf.is_tensor(tensor) or not hasattr(tensor, "op"):
            return None
        return self._labels.get(tensor.name)

    def put(self, tensor: tf.Tensor, label: Label) -> None:
        """Give a tensor a label."""
        self._labels[tensor.name] = label

    def tell(self, tensor: Any, axis: int, certain: bool = True) -> None:
        """Take that an axis of a tensor is its channels; 0 tells nothing."""
        label = self.of(tensor)
        if label is not None and axis % len(label.axes):
            label.tell(axis % len(label.axes), certain)

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
            if output.shape.rank and (parts or self._is_batched(output.shape)):
                label = self._label_of(op, inputs, output)
                if label is not None and len(label.axes) == output.shape.rank:
                    if label.joined and op.type != "ConcatV2" and not _keeps(inputs, output):
                        label = label._replace(joined=None)
                    self.put(output, label)

    def _label_of(self, op: tf.Operation, inputs: list[Any], output: Any) -> Label | None:
        if not inputs:
            rank = output.shape.rank
            if op.type != "Reshape" or rank not in (3, 4, 5):
                return None
            of_tokens = any(g.sizes == tuple(output.shape[1:-1]) for g in self.grids.values())
            return Label.of(Origin(of_tokens, rank=rank)) if of_tokens or rank < 5 else None
        # Of several, the one that is not broadcast.
        alike = [t for t in inputs if t.shape.is_compatible_with(output.shape)]
        like = (alike or inputs)[0]
        label = self._labels[like.name]
        if op.type in _FORMATTED or op.type in _LAST:
            return self._formatted(op, label)
        if op.type == "Transpose":
            order = tf.get_static_value(op.inputs[1])
            return None if order is None else label.permuted(order)
        for axis in _reversed_axes(op):
            label = label.reversed_along(axis, like.shape[axis])
        if op.type == "ConcatV2":
            return self._joined(op, inputs, label)
        if op.type == "Einsum":
            return self._einsum(op, like, label)
        if op.type in _PRODUCTS and len(label.axes) < 4:
            scores = len(inputs) > 1 and not alike
            if len(label.axes) == 3 and len(inputs) == 1 and like is op.inputs[0]:
                label.tell(2, certain=False)
            return None if scores or len(label.axes) < 3 else label
        reshaped = op.type == "Reshape" and not alike
        if reshaped or (op.type in _REGROUPING and output.shape.rank != len(label.axes)):
            found = _regrouped(label, like.shape, output.shape)
            return self._label_of(op, [], output) if reshaped and found is None else found
        return label

    def _formatted(self, op: tf.Operation, label: Label) -> Label:
        axis = len(label.axes) - 1
        if op.type in _FORMATTED and op.get_attr("data_format").startswith(b"NC"):
            axis = 1
        label.tell(axis, certain=True)
        label = label._replace(joined=None)  # windows reach over tokens
        if label.channels() == axis:
            return label
        # Other axes than before are positions now, or the channels are new.
        own = Origin(True, axis, True, len(label.axes))
        added = (None if old is None and i != axis else i for i, old in enumerate(label.axes))
        turned = frozenset(i for i, old in enumerate(label.axes) if old in label.turned)
        return Label(own, tuple(added), turned, label.is_lost)

    def _einsum(self, op: tf.Operation, like: Any, label: Label) -> Label | None:
        sides, _, result = op.get_attr("equation").decode().partition("->")
        operands = sides.split(",")
        letters = operands[[t is like for t in op.inputs].index(True)]
        if len(letters) != len(result) or "." in letters + result:
            return None
        new = [i for i, letter in enumerate(result) if letter not in letters]
        gone = [i for i, letter in enumerate(letters) if letter not in result]
        if len(new) != len(gone) or len(new) > 1:
            return None
        if gone:
            self.tell(like, gone[0], certain=False)
        order = [gone[0] if i in new else letters.index(c) for i, c in enumerate(result)]
        return label.permuted(order)

    def _find_grid(self, old: tf.TensorShape, new: tf.TensorShape, label: Label | None) -> None:
        """Take the grid of a reshaping that makes one axis of a map's height and width."""
        if old.rank is None or new.rank is None or old.rank < 4 or new.rank < 3:
            return
        if None in (*old[1:], *new[1:]) or not self._is_batched(new):
            return
        for axis, merged in _merged(old[1:], new[1:]):
            if len(merged) not in (2, 3):
                continue
            places = tuple(place + 1 for place in merged)
            if label is not None or old.rank == 4:
                if label is None or not label.origin.spatial or label.positions() != places:
                    continue
            elif axis or len(merged) > 2:
                continue
            sizes = [old[place] for place in places]
            self.grids[math.prod(sizes)] = Grid(
                sizes[-2], sizes[-1], depth=sizes[0] if sizes[2:] else 0
            )

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

    def _joined(self, op: tf.Operation, inputs: list[Any], label: Label) -> Label:
        """The label after a concatenation: learned tokens before and after steps are none."""
        *parts, axis = op.inputs
        output = op.outputs[0].shape
        if output.rank != 3 or tf.get_static_value(axis) not in (1, -2):
            return label
        placed = [t for t in inputs if self._labels[t.name].origin.spatial]
        sizes = [part.shape[1] for part in parts]
        if len(placed) != 1 or None in sizes:
            return label._replace(joined=None)
        label = self._labels[placed[0].name]
        if label.origin.rank != 3 or label.positions() != (1,) or output[1] in self.grids:
            return label._replace(joined=None)
        place = next(i for i, part in enumerate(parts) if part is placed[0])
        first, count = label.joined or (0, sizes[place])
        return label._replace(joined=(sum(sizes[:place]) + first, count))

    def _is_batched(self, shape: tf.TensorShape) -> bool:
        return shape[0] in (self.batch, None)


def _reversed_axes(op: tf.Operation) -> list[int]:
    """The axes along which an operation reverses a tensor without adding or removing any."""
    if op.type == "ReverseV2":
        return [int(axis) for axis in np.ravel(_static(op.inputs[1]))]
    masks = ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    if op.type != "StridedSlice" or any(map(op.get_attr, masks)):
        return []
    return [axis for axis, step in enumerate(_static(op.inputs[3])) if step < 0]


def _static(tensor: tf.Tensor) -> Any:
    """The values of a constant; none if they are not known."""
    values = tf.get_static_value(tensor)
    return [] if values is None else values


def _regrouped(label: Label, old: tf.TensorShape, new: tf.TensorShape) -> Label | None:
    """The label after axes of length 1 came or went, or were multiplied into others.

    None if two axes of the origin became one, or one became two.
    """
    sizes = [[_UNKNOWN if n is None else n for n in shape[1:]] for shape in (old, new)]
    if any(shape.count(_UNKNOWN) > 1 for shape in sizes):
        return None
    if math.prod(sizes[0]) != math.prod(sizes[1]):
        return None
    found = _merged(*sizes)
    if len(found) < len(sizes[1]):
        return None
    axes: list[int | None] = [0]
    for _, merged in found:
        own = [label.axes[place + 1] for place in merged]
        own = [axis for axis in own if axis is not None]
        if len(own) > 1:
            return None
        axes.append(own[0] if own else None)
    return label._replace(axes=tuple(axes))


def _keeps(inputs: list[Any], output: tf.Tensor) -> bool:
    """Whether an operation's output has as many steps along axis 1 as an input has."""
    return output.shape.rank == 3 and any(
        t.shape.rank == 3 and t.shape[1] == output.shape[1] for t in inputs
    )


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
