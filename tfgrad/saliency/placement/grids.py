"""Grids of cells on an image, and maps laid there."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf


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
    """The grid of a feature map on the image.

    Attributes:
        rows: The rows of the image at which cells look.
        columns: The columns at which they look.
        turned: Whether the rows of the image are the columns of the feature map.
    """

    rows: Axis
    columns: Axis
    turned: bool = False

    @property
    def cells(self) -> tuple[int, int]:
        """Height and width of the feature map."""
        height, width = len(self.rows.centres), len(self.columns.centres)
        return (width, height) if self.turned else (height, width)

    def is_near(self, other: Grid) -> bool:
        """Whether two grids differ by so little that one can stand for the other."""
        if not isinstance(other, Placement) or self.turned != other.turned:
            return False
        pairs = ((self.rows, other.rows), (self.columns, other.columns))
        return all(one.is_near(two) for one, two in pairs)

    def laid(self, maps: tf.Tensor, size: tuple[int, int], cubic: bool = False) -> tf.Tensor:
        """Maps [B, h, w] on images of this size, [B, H, W]."""
        if not maps.shape[1:].is_compatible_with(self.cells):
            # TensorFlow gives tf.cond under a persistent tape the shape of its first branch.
            maps = tf.raw_ops.PlaceholderWithDefault(input=maps, shape=[None, None, None])
            maps = tf.ensure_shape(maps, [None, *self.cells])
        if self.turned:
            maps = tf.linalg.matrix_transpose(maps)
        axes = (self.rows, self.columns)
        if all(axis.is_pixels(length) for axis, length in zip(axes, size, strict=True)):
            return maps
        rows, columns = (
            tf.constant(axis.matrix(length, cubic), maps.dtype)
            for axis, length in zip(axes, size, strict=True)
        )
        return tf.matmul(tf.matmul(rows, maps), columns, transpose_b=True)


@dataclasses.dataclass(frozen=True)
class Scattered:
    """Cells that lie in no rows and columns; every pixel shows the nearest cell.

    Attributes:
        centres: The pixel at which each cell looks, (row, column), row by row of the feature map;
            NaN for one without a place.
        spacing: The distance of two cells on each axis of the image, in which distances are
            measured.
        seen: The first and the last row, and the first and the last column, on which cells depend.
    """

    centres: tuple[tuple[float, float], ...]
    spacing: tuple[float, float]
    seen: tuple[int, int, int, int]

    def is_near(self, other: Grid) -> bool:
        """Whether two grids are equal."""
        return self == other

    def nearest(self, size: tuple[int, int]) -> np.ndarray:
        """The cell at each pixel of images of this size, [H, W]."""
        centres = np.asarray(self.centres) / self.spacing
        centres = np.where(np.isnan(centres), np.inf, centres)
        columns = np.arange(size[1])[:, np.newaxis] / self.spacing[1]
        across = np.square(columns - centres[:, 1])
        rows = (np.square(row / self.spacing[0] - centres[:, 0]) for row in range(size[0]))
        return np.stack([np.argmin(row + across, 1) for row in rows])

    def laid(self, maps: tf.Tensor, size: tuple[int, int], cubic: bool = False) -> tf.Tensor:
        """Maps [B, h, w] on images of this size, [B, H, W]."""
        top, bottom, left, right = self.seen
        seen = np.zeros(size)
        seen[top : bottom + 1, left : right + 1] = 1
        flat = tf.reshape(maps, [-1, len(self.centres)])
        return tf.gather(flat, self.nearest(size), axis=1) * tf.constant(seen, maps.dtype)


Grid = Placement | Scattered


def _keys(distance: np.ndarray) -> np.ndarray:
    """Cubic convolution with a = −1/2 (Keys 1981)."""
    d = np.abs(distance)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
