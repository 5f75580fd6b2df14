"""Where the cells of feature maps lie on the image, and maps laid there."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.gradients import axes
from tfgrad.saliency.placement import operations
from tfgrad.saliency.placement.positions import (
    ANY,
    BEYOND,
    EXTENT,
    INSIDE,
    PLANES,
    Positions,
    of_image,
)
from tfgrad.saliency.placement.walk import Walk


@dataclasses.dataclass(frozen=True)
class Axis:
    """The rows, or the columns, of a grid of cells.

    Attributes:
        centres: The pixel at which each cell looks, in the middle of what it depends on.
        first: The first pixel on which any cell depends.
        last: The last one.
    """

    centres: tuple[float, ...]
    first: int
    last: int

    def is_pixels(self, length: int) -> bool:
        """Whether the cells are the pixels of an image of this length, in their order."""
        return self == Axis(tuple(map(float, range(length))), 0, length - 1)

    def is_near(self, other: Axis) -> bool:
        """Whether no centre differs by more than a twentieth of the distance between two cells."""
        if (self.first, self.last) != (other.first, other.last):
            return False
        own, others = np.asarray(self.centres), np.asarray(other.centres)
        return bool(np.abs(own - others).max() <= 0.05 * np.ptp(own) / max(len(own) - 1, 1))

    def matrix(self, length: int, cubic: bool) -> np.ndarray:
        """Interpolation between the centres at an image's pixels, [length, cells].

        Beyond the outer centres a map is constant, and zero where no cell looks.
        """
        order = np.argsort(self.centres, kind="stable")
        centres, group = np.unique(np.asarray(self.centres)[order], return_inverse=True)
        pixels = np.arange(length)
        index = np.interp(pixels, centres, np.arange(len(centres)))
        matrix = np.zeros([length, len(self.centres)])
        reach = np.arange(-1, 3) if cubic else np.arange(2)
        for step in reach:
            cell = np.floor(index).astype(int) + step
            weight = _keys(index - cell) if cubic else np.maximum(1 - np.abs(index - cell), 0)
            cell = np.clip(cell, 0, len(centres) - 1)
            for own, source in zip(group, order, strict=True):
                matrix[:, source] += weight * (cell == own) / np.sum(group == own)
        matrix[(pixels < self.first) | (pixels > self.last)] = 0
        return matrix


@dataclasses.dataclass(frozen=True)
class Placement:
    """The grid of a feature map on the image."""

    rows: Axis
    columns: Axis

    def is_near(self, other: Placement) -> bool:
        """Whether two grids differ by so little that one can stand for the other."""
        pairs = ((self.rows, other.rows), (self.columns, other.columns))
        return all(one.is_near(two) for one, two in pairs)

    def laid(self, maps: tf.Tensor, size: tuple[int, int], cubic: bool = False) -> tf.Tensor:
        """Maps [B, h, w] on images of this size, [B, H, W]."""
        axes = (self.rows, self.columns)
        if all(axis.is_pixels(length) for axis, length in zip(axes, size, strict=True)):
            return maps
        rows, columns = (
            tf.constant(axis.matrix(length, cubic), maps.dtype)
            for axis, length in zip(axes, size, strict=True)
        )
        return tf.matmul(tf.matmul(rows, maps), columns, transpose_b=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Placements:
    """What is known of a network at one size of images.

    Attributes:
        grids: {name of a tensor: its placement, None if it could not be found}.
        seen: Where the logits depend on the image, [H, W]; None if that is everywhere.
    """

    grids: Mapping[str, Placement | None]
    seen: np.ndarray | None


Laid = Callable[[tf.Tensor], tf.Tensor | None]


def measured(
    image: tf.Tensor,
    channel_axis: int,
    tensors: Mapping[str, tuple[tf.Tensor, Laid]],
    outputs: Sequence[tf.Tensor],
) -> Placements:
    """Run a graph on coordinates.

    Args:
        image: The images of a graph, [None, H, W, C].
        channel_axis: The axis of C: 1, 2 or 3.
        tensors: {name: (a tensor of the graph, a function that lays its values out as [B, h, w, C]
            or returns None if they have no grid)}.
        outputs: The logits.
    """
    # Graphs, tapes and scopes of the caller are local to its thread.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(_measured, image, channel_axis, tensors, outputs).result()


def _measured(
    image: tf.Tensor,
    channel_axis: int,
    tensors: Mapping[str, tuple[tf.Tensor, Laid]],
    outputs: Sequence[tf.Tensor],
) -> Placements:
    lengths = image.shape.as_list()[1:]
    channels = lengths.pop(channel_axis - 1)
    start = of_image(lengths[0], lengths[1], channels)
    if channel_axis != 3:
        start = Positions(axes.channels_at(start.every_channel(), channel_axis))
    seen: list[tf.Tensor] = []
    with tf.GradientTape() as tape:
        tape.watch(start.columns)
        walk = Walk({id(image): start}, seen, operations.outputs)
        found = walk.run([*(tensor for tensor, _ in tensors.values()), *outputs])
        walk.sees(found[len(tensors) :])
        total = tf.add_n(seen) if seen else tf.zeros([], tf.float64)
    grids = _Grids(*lengths)
    for (name, (tensor, laid)), value in zip(tensors.items(), found, strict=False):
        grids.add(name, tensor, laid, value)
    gradient = tf.convert_to_tensor(  # that of a gather is tf.IndexedSlices
        tape.gradient(total, start.columns, unconnected_gradients="zero")
    )
    visible = axes.channels_last(gradient, channel_axis).numpy()[ANY].sum((0, -1)) > 0
    mask = None if visible.all() or not visible.any() else visible
    return Placements(grids.found, mask)


class _Grids:
    """The grids of a network's tensors, in the order of its calls."""

    def __init__(self, height: int, width: int) -> None:
        self.found: dict[str, Placement | None] = {}
        self._size = height, width
        self._last: dict[tuple[int, ...], list[Placement]] = {}

    def add(self, name: str, tensor: tf.Tensor, laid: Laid, value: Any) -> None:
        """Place a tensor; one without places is laid where the last one of its size is."""
        if isinstance(value, Positions):
            grid = laid(value.every_channel())
        elif tensor.shape.rank and None not in tensor.shape[1:]:
            grid = laid(tf.zeros([PLANES, *tensor.shape[1:]], tf.float64))
        else:
            grid = None
        self.found[name] = None
        if grid is None:
            return
        known = self._last.setdefault(tuple(grid.shape[1:3]), [])
        own = _placement(Positions(grid), *self._size)
        if own is None:
            self.found[name] = known[-1] if known else None
            return
        same = next((other for other in known if other.is_near(own)), own)
        self._last[tuple(grid.shape[1:3])] = [*(k for k in known if k is not same), same]
        self.found[name] = same


def _placement(cells: Positions, height: int, width: int) -> Placement | None:
    """The grid of cells [PLANES · n, h, w, C]; None if they are not at several places."""
    # Channels, and windows on the batch axis, count alike.
    by_cell = tf.reduce_mean(cells.planes(slice(0, EXTENT.start)), [1, -1]).numpy()
    limits = tf.reduce_max(cells.planes(EXTENT), [1, 2, 3, 4]).numpy()
    rows = _centres(by_cell, INSIDE, 1, -1), _centres(by_cell, BEYOND, 1, -1)
    columns = _centres(by_cell, INSIDE, 2, -2), _centres(by_cell, BEYOND, 2, -2)
    axes = []
    for (inside, beyond), low, high, length in (
        (rows, limits[0], limits[1], height),
        (columns, limits[2], limits[3], width),
    ):
        axis = _axis(inside, beyond, round(length - low), round(high - 1))
        if axis is None:
            return None
        axes.append(axis)
    return Placement(*axes)


def _centres(by_cell: np.ndarray, planes: slice, coordinate: int, axis: int) -> np.ndarray:
    """The mean coordinate of every row (or column) of cells; NaN where they have no place."""
    parts = by_cell[planes]
    share, total = parts[0].sum(axis), parts[coordinate].sum(axis)
    return np.where(share > 1e-12, total / np.maximum(share, 1e-12), np.nan)


def _axis(inside: np.ndarray, beyond: np.ndarray, first: int, last: int) -> Axis | None:
    """Equally spaced centres, unless the cells are far from that.

    The spacing is that of a network without borders. Of what the middle cells would see, some may
    lie outside the image: they look at the middle of the rest.
    """
    count = len(beyond)
    if np.isnan(beyond).any() or last < first:
        return None
    cells = np.arange(count) - (count - 1) / 2
    # Where a network enlarges its maps, the outer cells may be closer to each other.
    edge = count // 4 if count > 4 else 0
    inner = slice(edge, count - edge)
    half = (count - 2 * edge) // 2
    rise = beyond[inner][-half:].mean() - beyond[inner][:half].mean() if half else 0.0
    spacing = rise / (count - 2 * edge - half)
    if count > 1 and abs(spacing) < 1e-6:
        return None
    centres = beyond[inner].mean() + spacing * cells
    if np.abs(centres - beyond)[inner].max() > 0.6 * abs(spacing):
        centres = beyond
    middle = np.abs(cells) <= 1
    shift = np.nanmean((inside - beyond)[middle])
    centres = centres + (0.0 if np.isnan(shift) else shift)
    return Axis(tuple(round(float(c), 3) for c in centres), first, last)


def _keys(distance: np.ndarray) -> np.ndarray:
    """Cubic convolution with a = −1/2 (Keys 1981)."""
    d = np.abs(distance)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
