"""Which pixels the cells of a tensor depend on, in place of the tensor's values.

A network is run on coordinates: in place of a batch of inputs, each tensor holds several numbers
per cell, its *planes*. Convolution and pooling average them over their window, so a cell's numbers
describe the pixels that it depends on, whatever the weights. Those of images, with two coordinates:

| planes | content | at the border of a tensor |
|---|---|---|
| 0 to 2 | share of pixels s, s·row, s·column | what is padded has no pixels |
| 3 | as 0, but kept where positions are lost | what is padded has no pixels |
| 4 to 6 | as 0 to 2 | pixels go on beyond the border, at the same spacing |
| 7 to 10 | H − row, row + 1, W − column, column + 1, of which the maximum is taken | no pixels |

Series have one coordinate and 7 planes, volumes three and 15.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Planes:
    """Where each kind of plane is.

    Attributes:
        coordinates: The number of axes of a map.
    """

    coordinates: int

    @property
    def count(self) -> int:
        """The number of planes."""
        return 3 + 4 * self.coordinates

    @property
    def inside(self) -> slice:
        """The share of pixels and its coordinates, of what exists."""
        return slice(0, 1 + self.coordinates)

    @property
    def any(self) -> slice:
        """The share of pixels, kept where positions are lost."""
        return slice(1 + self.coordinates, 2 + self.coordinates)

    @property
    def beyond(self) -> slice:
        """As `inside`, with pixels beyond the border."""
        return slice(2 + self.coordinates, 3 + 2 * self.coordinates)

    @property
    def extent(self) -> slice:
        """The limits of what is seen, of which the maximum is taken."""
        return slice(3 + 2 * self.coordinates, self.count)


Pads = Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True, eq=False)
class Positions:
    """The coordinates of a tensor's cells.

    Attributes:
        columns: float64 [planes · n, …, k]; n is 1, or the number of windows that the network
            stacks on the batch axis.
        held: Which planes these are.
        repeats: Number of channels for which each of the k columns stands, as most operations treat
            all channels alike.
        gain: The mean square of a derivative along which these cells depend on the image, which
            tells how much each of two branches counts where they are added.
    """

    columns: tf.Tensor
    held: Planes
    repeats: int = 1
    gain: float = 1.0

    @property
    def shape(self) -> list[int]:
        """The shape that the tensor has for a batch of one input for each plane."""
        *shape, columns = self.columns.shape.as_list()
        return [*shape, columns * self.repeats]

    def like(self, columns: tf.Tensor) -> Positions:
        """Other columns, each standing for as many channels."""
        return self.of(columns, self.repeats)

    def of(self, columns: tf.Tensor, repeats: int = 1) -> Positions:
        """Other columns, each standing for this many channels."""
        return Positions(columns, self.held, repeats, self.gain)

    def times(self, gain: float) -> Positions:
        """The same cells after a multiplication, whose mean square is `gain`."""
        return Positions(self.columns, self.held, self.repeats, self.gain * gain)

    def every_channel(self) -> tf.Tensor:
        """The numbers with one column for each channel."""
        return _repeated(self.columns, self.repeats)

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
        first = self.held.extent.start * self._windows
        parts = [mean(self.columns[:first]), largest(tf.stop_gradient(self.columns[first:]))]
        return self.like(tf.concat(parts, 0))

    def padded(self, pads: Pads) -> Positions:
        """More cells before and after those of every axis but the first."""
        if not any(map(any, pads)):
            return self
        beyond = self.held.beyond
        start, stop = beyond.start * self._windows, beyond.stop * self._windows
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
        return self.of(whole.columns, repeats)

    def broadcast(self, shape: Sequence[int]) -> Positions:
        """The same numbers at a larger shape; a last axis of one channel stays one column."""
        if self.shape == list(shape):
            return self
        if self.shape[-1] == 1:
            columns = tf.broadcast_to(self.columns, [*shape[:-1], 1])
            return self.of(columns, shape[-1])
        return self.of(tf.broadcast_to(self.every_channel(), shape))

    def without_place(self) -> Positions:
        """The same pixels, seen from everywhere."""
        count = self.held.count
        kept = tf.range(count) == self.held.any.start
        by_plane = self._by_plane()
        kept = tf.reshape(kept, [count] + [1] * (by_plane.shape.rank - 1))
        zeroed = tf.where(kept, by_plane, tf.zeros_like(by_plane))
        return self.like(tf.reshape(zeroed, self.columns.shape))

    def local(self) -> Positions:
        """Itself, or `without_place` if the cells are all at one place."""
        share, *places = np.reshape(self.planes(self.held.beyond), [1 + self.held.coordinates, -1])
        there = share > 0
        if not there.any():
            return self
        spread = max(np.ptp(place[there] / share[there]) for place in places)
        return self if spread > 1e-6 else self.without_place()

    @property
    def _windows(self) -> int:
        return self.columns.shape[0] // self.held.count

    def _by_plane(self) -> tf.Tensor:
        return tf.reshape(
            self.columns, [self.held.count, self._windows, *self.columns.shape.as_list()[1:]]
        )


def filled(shape: tf.TensorShape, like: Sequence[int]) -> list[int] | None:
    """A static shape, with its unknown lengths taken from another; None if the ranks differ."""
    if shape.rank != len(like):
        return None
    sizes = [known or size for known, size in zip(shape.as_list(), like, strict=True)]
    return [like[0], *sizes[1:]]


def of_input(lengths: Sequence[int], channels: int) -> Positions:
    """The positions of an input's pixels, [planes, *lengths, channels]."""
    places = np.meshgrid(*(np.arange(float(n)) for n in lengths), indexing="ij")
    one = np.ones_like(places[0])
    planes = [one, *places, one, one, *places]
    for length, place in zip(lengths, places, strict=True):
        planes += [length - place, place + 1]
    columns = tf.constant(np.stack(planes)[..., np.newaxis])
    return Positions(columns, Planes(len(lengths)), channels)


def joined(parts: Sequence[Positions], added: bool = True) -> Positions:
    """The cells of tensors of one shape that are added, or combined otherwise."""
    if len(parts) == 1:
        return parts[0]
    columns, repeats = _aligned(parts)
    gains = np.array([part.gain for part in parts])
    gain = gains.sum() if added else gains.max()
    shares = gains / gains.sum() if added else np.full(len(parts), 1 / len(parts))
    n = parts[0].held.extent.start * parts[0]._windows
    mean = tf.add_n([share * c[:n] for share, c in zip(shares, columns, strict=True)])
    largest = tf.reduce_max(tf.stack([c[n:] for c in columns]), 0)
    return Positions(tf.concat([mean, largest], 0), parts[0].held, repeats, float(gain))


def side_by_side(parts: Sequence[Positions]) -> Positions:
    """The channels of tensors, one after the other."""
    columns, repeats = _aligned(parts)
    channels = [part.shape[-1] for part in parts]
    gain = float(np.average([part.gain for part in parts], weights=channels))
    n = parts[0].held.extent.start * parts[0]._windows
    mean = [part.gain / gain * c[:n] for part, c in zip(parts, columns, strict=True)]
    largest = [c[n:] for c in columns]
    columns = tf.concat([tf.concat(mean, -1), tf.concat(largest, -1)], 0)
    return Positions(columns, parts[0].held, repeats, gain)


def pooled(
    cells: Positions, window: Sequence[int], strides: Sequence[int], pads: Pads
) -> Positions:
    """The windows of [planes · n, *lengths, k], with these paddings; two or three axes."""
    cells = cells.padded([*pads, (0, 0)])
    return cells.mapped(
        lambda t: _pooled(tf.nn.avg_pool2d, t, window, strides),
        lambda t: _pooled(tf.nn.max_pool2d, t, window, strides),
    )


def _pooled(
    pool: Callable[..., tf.Tensor], t: tf.Tensor, window: Sequence[int], strides: Sequence[int]
) -> tf.Tensor:
    """A pooling of two axes, or of three: of the last two and then of the first."""
    if len(window) == 2:
        return pool(t, window, strides, "VALID")
    n, depth, *lengths, k = t.shape.as_list()
    t = pool(tf.reshape(t, [n * depth, *lengths, k]), window[1:], strides[1:], "VALID")
    lengths = t.shape.as_list()[1:-1]
    t = tf.reshape(t, [n, depth, lengths[0] * lengths[1], k])
    t = pool(t, [window[0], 1], [strides[0], 1], "VALID")
    return tf.reshape(t, [n, t.shape[1], *lengths, k])


def transposed(
    cells: Positions,
    window: Sequence[int],
    strides: Sequence[int],
    before: Sequence[int],
    size: Sequence[int],
) -> Positions:
    """A transposed convolution: cells `strides` apart, each written to a window around it.

    Args:
        cells: [planes · n, *lengths, k].
        window: The lengths of the kernel.
        strides: Distance of two cells in the output.
        before: Number of cells by which the first window begins before the output.
        size: The lengths of the output.
    """
    t = cells.columns
    for axis, step in enumerate(strides, start=1):
        shape = t.shape.as_list()
        widths = [[0, 0]] * (len(shape) + 1)
        widths[axis + 1] = [0, step - 1]
        t = tf.pad(tf.expand_dims(t, axis + 1), widths)
        shape[axis] *= step
        t = tf.reshape(t, shape)
    lengths = t.shape.as_list()[1:-1]
    after = [max(0, s + b - m) for s, b, m in zip(size, before, lengths, strict=True)]
    ahead = [w - 1 - b for w, b in zip(window, before, strict=True)]
    t = tf.pad(t, [[0, 0], *zip(ahead, after, strict=True), [0, 0]])
    kept = [slice(s + w - 1) for s, w in zip(size, window, strict=True)]
    t = t[(slice(None), *kept)]
    return pooled(cells.like(t), window, [1] * len(window), [(0, 0)] * len(window))


def _aligned(parts: Sequence[Positions]) -> tuple[list[tf.Tensor], int]:
    """The columns of tensors, each standing for the same number of channels."""
    repeats = math.gcd(*(part.repeats for part in parts))
    return [_repeated(part.columns, part.repeats // repeats) for part in parts], repeats


def _repeated(columns: tf.Tensor, times: int) -> tf.Tensor:
    """Each column so many times in a row."""
    if times == 1:
        return columns
    if columns.shape[-1] == 1:  # without the many operations of tf.repeat
        return tf.broadcast_to(columns, [*columns.shape[:-1], times])
    return tf.repeat(columns, times, -1)


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
