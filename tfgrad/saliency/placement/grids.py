"""Grids of cells on an image, a series or a volume, and maps laid there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfgrad.gradients import axes


@dataclasses.dataclass(frozen=True)
class Axis:
    """The cells of a grid along one axis of the input: its rows, its columns or its steps.

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
    """The grid of a feature map on the input.

    Attributes:
        axes: For each axis of the input, the places at which cells look.
        order: For each axis of the input, the axis of the feature map that runs along it.
        cells: The lengths of the feature map; axes of length 1 are added in front if it has fewer
            than the input. It is summed over axes that run along none of the input's, as over the
            frequencies of a spectrogram of a series.
    """

    axes: tuple[Axis, ...]
    order: tuple[int, ...]
    cells: tuple[int, ...]

    @property
    def rows(self) -> Axis:
        """The rows of an image at which cells look."""
        return self.axes[-2]

    @property
    def columns(self) -> Axis:
        """The columns of an image at which they look."""
        return self.axes[-1]

    @property
    def turned(self) -> bool:
        """Whether the axes of the feature map have another order than those of the input."""
        return self.order != tuple(sorted(self.order))

    def is_near(self, other: Grid) -> bool:
        """Whether two grids differ by so little that one can stand for the other."""
        if not isinstance(other, Placement):
            return False
        if (self.order, self.cells) != (other.order, other.cells):
            return False
        return all(one.is_near(two) for one, two in zip(self.axes, other.axes, strict=True))

    def laid(self, maps: tf.Tensor, size: tuple[int, ...], cubic: bool = False) -> tf.Tensor:
        """Maps [B, *cells] on inputs of this size, [B, *size]."""
        while len(maps.shape) <= len(self.cells):
            maps = maps[:, tf.newaxis]
        maps = axes.with_shape(maps, [None, *self.cells])
        folded = [axis for axis in range(len(self.cells)) if axis not in self.order]
        if folded:
            maps = tf.reduce_sum(maps, [axis + 1 for axis in folded])
        if self.turned:
            kept = sorted(self.order)
            maps = tf.transpose(maps, [0, *(1 + kept.index(axis) for axis in self.order)])
        if all(axis.is_pixels(length) for axis, length in zip(self.axes, size, strict=True)):
            return maps
        return interpolated(
            maps,
            [
                tf.constant(axis.matrix(length, cubic), maps.dtype)
                for axis, length in zip(self.axes, size, strict=True)
            ],
        )


def interpolated(maps: tf.Tensor, matrices: Sequence[tf.Tensor]) -> tf.Tensor:
    """Maps [B, *cells] times a matrix [pixels, cells] for each axis: [B, *pixels]."""
    if len(matrices) == 1:
        return tf.matmul(maps, matrices[0], transpose_b=True)
    if len(matrices) == 2:
        rows, columns = matrices
        return tf.matmul(tf.matmul(rows, maps), columns, transpose_b=True)
    first, *rest = matrices
    count, cells = tf.shape(maps)[0], tf.shape(maps)[1]
    inner = tf.reshape(maps, tf.concat([[count * cells], tf.shape(maps)[2:]], 0))
    inner = interpolated(tf.ensure_shape(inner, [None, *maps.shape[2:]]), rest)
    lengths = tf.shape(inner)[1:]
    flat = tf.matmul(first, tf.reshape(inner, [count, cells, tf.reduce_prod(lengths)]))
    larger = tf.reshape(flat, tf.concat([[count, tf.shape(first)[0]], lengths], 0))
    return tf.ensure_shape(larger, [maps.shape[0], first.shape[0], *inner.shape[1:]])


@dataclasses.dataclass(frozen=True)
class Scattered:
    """Cells that lie in no rows and columns; every pixel shows the nearest cell.

    Attributes:
        centres: The pixel at which each cell looks, a coordinate for each axis of the input, row by
            row of the feature map; NaN for one without a place.
        spacing: The distance of two cells on each axis of the input, in which distances are
            measured.
        seen: For each axis of the input, the first and the last pixel on which cells depend.
    """

    centres: tuple[tuple[float, ...], ...]
    spacing: tuple[float, ...]
    seen: tuple[tuple[int, int], ...]

    def is_near(self, other: Grid) -> bool:
        """Whether two grids are equal."""
        return self == other

    def nearest(self, size: tuple[int, ...]) -> np.ndarray:
        """The cell at each pixel of inputs of this size."""
        centres = np.asarray(self.centres) / self.spacing
        centres = np.where(np.isnan(centres), np.inf, centres)
        apart = [
            np.square(np.arange(length)[:, np.newaxis] / spacing - centre)
            for length, spacing, centre in zip(size, self.spacing, centres.T, strict=True)
        ]
        cells = np.zeros(size, "int64")
        for place in np.ndindex(*size[:-1]):
            before = [distance[i] for distance, i in zip(apart, place, strict=False)]
            cells[place] = np.argmin(sum([*before, apart[-1]]), 1)
        return cells

    def laid(self, maps: tf.Tensor, size: tuple[int, ...], cubic: bool = False) -> tf.Tensor:
        """Maps [B, *cells] on inputs of this size, [B, *size]."""
        seen = np.zeros(size)
        seen[tuple(slice(first, last + 1) for first, last in self.seen)] = 1
        flat = tf.reshape(maps, [-1, len(self.centres)])
        return tf.gather(flat, self.nearest(size), axis=1) * tf.constant(seen, maps.dtype)


Grid = Placement | Scattered


def _keys(distance: np.ndarray) -> np.ndarray:
    """Cubic convolution with a = −1/2 (Keys 1981)."""
    d = np.abs(distance)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
