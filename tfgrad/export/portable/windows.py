"""Sliding windows over spatial axes: which entries each one sees, and the way back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Axis(NamedTuple):
    """The windows along one axis.

    Attributes:
        length: Number of entries.
        outputs: Number of windows.
        size: Entries in a window, from the first to the last.
        stride: Distance between windows.
        before: Entries of padding before the first entry.
    """

    length: int
    outputs: int
    size: int
    stride: int
    before: int

    @property
    def after(self) -> int:
        """Entries of padding behind the last entry that windows reach."""
        return max((self.outputs - 1) * self.stride + self.size - self.before - self.length, 0)


def axis_of(length: int, outputs: int, size: int, stride: int, padding: str) -> Axis:
    """The windows along an axis with TensorFlow's `padding`, "SAME" or "VALID"."""
    total = max((outputs - 1) * stride + size - length, 0)
    return Axis(length, outputs, size, stride, total // 2 if padding == "SAME" else 0)


def entries(
    x: tf.Tensor, axes: Sequence[Axis], fill: float
) -> Iterator[tuple[tuple[int, ...], tf.Tensor]]:
    """For each place in a window, in row-major order, the entries that windows have there.

    Args:
        x: [batch, *lengths, channels].
        axes: The windows along each spatial axis.
        fill: The value of the padding.

    Yields:
        The place, and [batch, *outputs, channels].
    """
    if any(axis.before or axis.after for axis in axes):
        pads = [[0, 0], *[[axis.before, axis.after] for axis in axes], [0, 0]]
        x = tf.pad(x, pads, constant_values=tf.constant(fill, x.dtype))
    for place in itertools.product(*[range(axis.size) for axis in axes]):
        begin = [0, *place, 0]
        ends = [
            i + (axis.outputs - 1) * axis.stride + 1 for i, axis in zip(place, axes, strict=True)
        ]
        end = [x.shape[0], *ends, x.shape[-1]]
        yield place, tf.strided_slice(x, begin, end, [1, *[axis.stride for axis in axes], 1])


def spread(
    values: Callable[[tuple[int, ...]], tf.Tensor], axes: Sequence[Axis], first: int = 1
) -> tf.Tensor:
    """The sum of what windows give to their entries, [batch, *lengths, channels].

    Args:
        values: What each window gives to the entry at a place in it, [batch, *outputs, channels].
        axes: The windows along each spatial axis.
        first: The axis of the tensors that the first of them is.
    """
    axis = axes[0]

    def part(i: int) -> tf.Tensor:
        if len(axes) == 1:
            return values((i,))
        return spread(lambda rest: values((i, *rest)), axes[1:], first + 1)

    parts = [part(i) for i in range(axis.size)]
    return _interleaved(parts, axis, first)


def dilated(x: tf.Tensor, factors: Mapping[int, int]) -> tf.Tensor:
    """Entries with `factor − 1` zeros behind each, along some axes.

    Args:
        x: A tensor of static shape.
        factors: {axis: factor}.
    """
    for axis, factor in factors.items():
        if factor > 1:
            lengths = list(x.shape)
            outer = int(np.prod(lengths[: axis + 1]))
            flat = tf.reshape(x, [outer, 1, int(np.prod(lengths[axis + 1 :]))])
            flat = tf.pad(flat, [[0, 0], [0, factor - 1], [0, 0]])
            x = tf.reshape(flat, [*lengths[:axis], lengths[axis] * factor, *lengths[axis + 1 :]])
    return x


def _interleaved(parts: list[tf.Tensor], axis: Axis, at: int) -> tf.Tensor:
    """Σ of parts, of which entry o of part i belongs to entry o · stride + i of the padded axis."""
    groups = axis.outputs + (axis.size - 1) // axis.stride
    phases: list[tf.Tensor | None] = [None] * axis.stride
    for i, part in enumerate(parts):
        group, phase = divmod(i, axis.stride)
        moved = _padded(part, at, group, groups - axis.outputs - group)
        known = phases[phase]
        phases[phase] = moved if known is None else known + moved
    zeros = next(phase for phase in phases if phase is not None)
    found = _alternating([tf.zeros_like(zeros) if p is None else p for p in phases], at)
    missing = axis.before + axis.length - groups * axis.stride
    found = _padded(found, at, 0, max(missing, 0))
    begin, size = [0] * found.shape.rank, list(found.shape)
    if begin[at] == axis.before and size[at] == axis.length:
        return found
    begin[at], size[at] = axis.before, axis.length
    return tf.slice(found, begin, size)


def _alternating(phases: list[tf.Tensor], at: int) -> tf.Tensor:
    """Entry 0 of every tensor along an axis, then entry 1, and so on."""
    if len(phases) == 1:
        return phases[0]
    lengths = list(phases[0].shape)
    # Of two axes before it: some runtimes know no more than five.
    flat = [lengths[: at + 1], lengths[at + 1 :]]
    outer, inner = (int(tf.TensorShape(part).num_elements()) for part in flat)
    found = tf.stack([tf.reshape(phase, [outer, inner]) for phase in phases], 1)
    return tf.reshape(found, [*lengths[:at], lengths[at] * len(phases), *lengths[at + 1 :]])


def _padded(x: tf.Tensor, at: int, before: int, after: int) -> tf.Tensor:
    if not before and not after:
        return x
    pads = [[0, 0]] * x.shape.rank
    pads[at] = [before, after]
    return tf.pad(x, pads)
