"""Which pixels the cells of a tensor depend on, in place of the tensor's values.

A network is run on coordinates: in place of a batch of images, each tensor holds `PLANES` numbers
per cell. Convolution and pooling average them over their window, so a cell's numbers describe the
pixels that it depends on, whatever the weights:

| planes | content | at the border of a tensor |
|---|---|---|
| 0 to 2 | share of pixels s, s·row, s·column | what is padded has no pixels |
| 3 | as 0, but kept where positions are lost | what is padded has no pixels |
| 4 to 6 | as 0 to 2 | pixels go on beyond the border, at the same spacing |
| 7 to 10 | H − row, row + 1, W − column, column + 1, of which the maximum is taken | no pixels |
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

PLANES = 11
INSIDE, ANY, BEYOND, EXTENT = slice(0, 3), slice(3, 4), slice(4, 7), slice(7, 11)

Pads = Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True, eq=False)
class Positions:
    """The coordinates of a tensor's cells.

    Attributes:
        columns: float64 [PLANES · n, …, k]; n is 1, or the number of windows that the network
            stacks on the batch axis.
        repeats: Number of channels for which each of the k columns stands, as most operations treat
            all channels alike.
        gain: The mean square of a derivative along which these cells depend on the image, which
            tells how much each of two branches counts where they are added.
    """

    columns: tf.Tensor
    repeats: int = 1
    gain: float = 1.0

    @property
    def shape(self) -> list[int]:
        """The shape that the tensor has for a batch of PLANES images."""
        *shape, columns = self.columns.shape.as_list()
        return [*shape, columns * self.repeats]

    def like(self, columns: tf.Tensor) -> Positions:
        """Other columns, each standing for as many channels."""
        return Positions(columns, self.repeats, self.gain)

    def times(self, gain: float) -> Positions:
        """The same cells after a multiplication, whose mean square is `gain`."""
        return Positions(self.columns, self.repeats, self.gain * gain)

    def every_channel(self) -> tf.Tensor:
        """The numbers with one column for each channel."""
        return tf.repeat(self.columns, self.repeats, -1) if self.repeats > 1 else self.columns

    def planes(self, planes: slice) -> tf.Tensor:
        """Some planes, [number of planes, n, …, k]."""
        return self._by_plane()[planes]

    def mapped(
        self,
        mean: Callable[[tf.Tensor], tf.Tensor],
        largest: Callable[[tf.Tensor], tf.Tensor],
    ) -> Positions:
        """The planes that are averaged and those of which the maximum is taken, each by its map.

        Both take and return a batch [m, …, k].
        """
        first = EXTENT.start * (self.columns.shape[0] // PLANES)
        parts = [mean(self.columns[:first]), largest(tf.stop_gradient(self.columns[first:]))]
        return self.like(tf.concat(parts, 0))

    def padded(self, pads: Pads) -> Positions:
        """More cells before and after those of every axis but the first."""
        if not any(map(any, pads)):
            return self
        n = self.columns.shape[0] // PLANES
        start, stop = BEYOND.start * n, BEYOND.stop * n
        widths = [(0, 0), *pads]
        parts = [
            tf.pad(self.columns[:start], widths),
            # The planes before these alone are differentiated, which shows what a network sees.
            _continued(tf.stop_gradient(self.columns[start:stop]), widths),
            tf.pad(tf.stop_gradient(self.columns[stop:]), widths),
        ]
        return self.like(tf.concat(parts, 0))

    def average(self, axes: Sequence[int]) -> Positions:
        """The cells along these axes as one; the axes are kept, with length 1."""
        repeats = 1 if len(self.shape) - 1 in axes else self.repeats
        whole = self.mapped(
            lambda t: tf.reduce_mean(t, axes, keepdims=True),
            lambda t: tf.reduce_max(t, axes, keepdims=True),
        )
        return Positions(whole.columns, repeats, self.gain)

    def broadcast(self, shape: Sequence[int]) -> Positions:
        """The same numbers at a larger shape; a last axis of one channel stays one column."""
        if self.shape == list(shape):
            return self
        if self.shape[-1] == 1:
            columns = tf.broadcast_to(self.columns, [*shape[:-1], 1])
            return Positions(columns, shape[-1], self.gain)
        return Positions(tf.broadcast_to(self.every_channel(), shape), 1, self.gain)

    def without_place(self) -> Positions:
        """The same pixels, seen from everywhere."""
        kept = tf.range(PLANES) == ANY.start
        by_plane = self._by_plane()
        kept = tf.reshape(kept, [PLANES] + [1] * (by_plane.shape.rank - 1))
        zeroed = tf.where(kept, by_plane, tf.zeros_like(by_plane))
        return self.like(tf.reshape(zeroed, self.columns.shape))

    def local(self) -> Positions:
        """Itself, or `without_place` if the cells are all at one place."""
        share, *places = np.reshape(self.planes(BEYOND), [3, -1])
        there = share > 0
        if not there.any():
            return self
        spread = max(np.ptp(place[there] / share[there]) for place in places)
        return self if spread > 1e-6 else self.without_place()

    def _by_plane(self) -> tf.Tensor:
        shape = self.columns.shape.as_list()
        return tf.reshape(self.columns, [PLANES, shape[0] // PLANES, *shape[1:]])


def filled(shape: tf.TensorShape, like: Sequence[int]) -> list[int] | None:
    """A static shape, with its unknown lengths taken from another; None if the ranks differ."""
    if shape.rank != len(like):
        return None
    sizes = [known or size for known, size in zip(shape.as_list(), like, strict=True)]
    return [like[0], *sizes[1:]]


def of_image(height: int, width: int, channels: int) -> Positions:
    """The positions of an image's pixels, [PLANES, height, width, channels]."""
    rows, columns = np.meshgrid(np.arange(float(height)), np.arange(float(width)), indexing="ij")
    one = np.ones_like(rows)
    planes = [one, rows, columns, one, one, rows, columns]
    planes += [height - rows, rows + 1, width - columns, columns + 1]
    return Positions(tf.constant(np.stack(planes)[..., np.newaxis]), channels)


def joined(parts: Sequence[Positions], added: bool = True) -> Positions:
    """The cells of tensors of one shape that are added, or combined otherwise."""
    if len(parts) == 1:
        return parts[0]
    columns, repeats = _aligned(parts)
    gains = np.array([part.gain for part in parts])
    gain = gains.sum() if added else gains.max()
    shares = gains / gains.sum() if added else np.full(len(parts), 1 / len(parts))
    n = columns[0].shape[0] // PLANES * EXTENT.start
    mean = tf.add_n([share * c[:n] for share, c in zip(shares, columns, strict=True)])
    largest = tf.reduce_max(tf.stack([c[n:] for c in columns]), 0)
    return Positions(tf.concat([mean, largest], 0), repeats, float(gain))


def side_by_side(parts: Sequence[Positions]) -> Positions:
    """The channels of tensors, one after the other."""
    columns, repeats = _aligned(parts)
    channels = [part.shape[-1] for part in parts]
    gain = float(np.average([part.gain for part in parts], weights=channels))
    n = columns[0].shape[0] // PLANES * EXTENT.start
    mean = [part.gain / gain * c[:n] for part, c in zip(parts, columns, strict=True)]
    largest = [c[n:] for c in columns]
    columns = tf.concat([tf.concat(mean, -1), tf.concat(largest, -1)], 0)
    return Positions(columns, repeats, gain)


def pooled(
    cells: Positions, window: Sequence[int], strides: Sequence[int], pads: Pads
) -> Positions:
    """The windows [height, width] of [PLANES · n, height, width, k], with these paddings."""
    cells = cells.padded([*pads, (0, 0)])
    return cells.mapped(
        lambda t: tf.nn.avg_pool2d(t, window, strides, "VALID"),
        lambda t: tf.nn.max_pool2d(t, window, strides, "VALID"),
    )


def transposed(
    cells: Positions,
    window: Sequence[int],
    strides: Sequence[int],
    before: Sequence[int],
    size: Sequence[int],
) -> Positions:
    """A transposed convolution: cells `strides` apart, each written to a window around it.

    Args:
        cells: [PLANES · n, height, width, k].
        window: Height and width of the kernel.
        strides: Distance of two cells in the output.
        before: Number of rows and columns by which the first window begins before the output.
        size: Height and width of the output.
    """
    t = cells.columns
    n, height, width, k = t.shape.as_list()
    down, across = strides
    between = [[0, 0], [0, 0], [0, down - 1], [0, 0], [0, across - 1], [0, 0]]
    t = tf.pad(t[:, :, tf.newaxis, :, tf.newaxis], between)
    t = tf.reshape(t, [n, height * down, width * across, k])
    (top, left), (kh, kw) = before, window
    after = [max(0, s + b - m) for s, b, m in zip(size, before, t.shape[1:3], strict=True)]
    t = tf.pad(t, [[0, 0], [kh - 1 - top, after[0]], [kw - 1 - left, after[1]], [0, 0]])
    t = t[:, : size[0] + kh - 1, : size[1] + kw - 1]
    return pooled(cells.like(t), window, (1, 1), [(0, 0), (0, 0)])


def _aligned(parts: Sequence[Positions]) -> tuple[list[tf.Tensor], int]:
    """The columns of tensors, each standing for the same number of channels."""
    repeats = math.gcd(*(part.repeats for part in parts))
    columns = [
        tf.repeat(p.columns, p.repeats // repeats, -1) if p.repeats > repeats else p.columns
        for p in parts
    ]
    return columns, repeats


def _continued(t: tf.Tensor, widths: Sequence[tuple[int, int]]) -> tf.Tensor:
    """Padding whose cells go on with the spacing of the two outermost ones."""
    for axis, (before, after) in enumerate(widths):
        length = t.shape[axis]
        parts = [t]
        if before:
            parts = [_beyond(t, axis, 0, 1, np.arange(before, 0.0, -1)), *parts]
        if after:
            parts = [*parts, _beyond(t, axis, length - 1, length - 2, np.arange(1.0, after + 1))]
        t = tf.concat(parts, axis) if len(parts) > 1 else t
    return t


def _beyond(t: tf.Tensor, axis: int, outer: int, inner: int, steps: np.ndarray) -> tf.Tensor:
    """Cells some steps beyond the outer one, away from its neighbour; its copies if it has none."""
    edge = tf.gather(t, [outer], axis=axis)
    step = edge - tf.gather(t, [inner], axis=axis) if t.shape[axis] > 1 else tf.zeros_like(edge)
    shape = [1] * t.shape.rank
    shape[axis] = -1
    return edge + step * np.reshape(steps, shape)
