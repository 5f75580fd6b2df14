"""Max-pooling by comparing and selecting slices, of which TensorFlow has every derivative."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfgrad.internal.lengths import length_of


def max_pool(x: Any, first: int, sizes: Sequence[int], strides: Sequence[int], same: bool) -> Any:
    """The largest entry of every window, whose derivatives of every order are selections.

    Args:
        x: The tensor.
        first: The first pooled axis.
        sizes: Lengths of the windows, one per pooled axis.
        strides: Distances of the windows, one per pooled axis.
        same: Whether windows reach over the edges, as with `padding="same"`.
    """
    # The last axis first: among equal entries the first in row-major order is taken, as by
    # TensorFlow's own operation.
    for i in reversed(range(len(sizes))):
        x = _max_along(x, first + i, sizes[i], strides[i], same)
    return x


def _max_along(x: Any, axis: int, size: int, stride: int, same: bool) -> Any:
    """The maximum over the windows of one axis.

    The axis is folded into groups of `stride` entries. Entry j of every window is then a slice of
    neighbouring groups: strided slices, and their gradients, take several times as long.
    """
    old = length_of(x, axis)
    larger = max if isinstance(old, int) else tf.maximum
    before: Any = 0
    if same:
        new = -(-old // stride)
        before = larger((new - 1) * stride + size - old, 0) // 2
    else:
        new = larger((old - size) // stride + 1, 0)
    groups = new + (size - 1) // stride
    x = _with_repeated_edges(x, axis, before, larger(groups * stride - old - before, 0))
    x = _slice(x, axis, 0, groups * stride)
    phases = [x]
    if stride > 1:
        lengths = [length_of(x, a) for a in range(len(x.shape))]
        x = tf.reshape(x, [*lengths[:axis], groups, stride, *lengths[axis + 1 :]])
        phases = tf.unstack(x, stride, axis + 1)
    y = _slice(phases[0], axis, 0, new)
    for entry in range(1, size):
        group, phase = divmod(entry, stride)
        z = _slice(phases[phase], axis, group, group + new)
        # Not tf.maximum nor tf.where, whose gradients handle broadcasting. NaN is not equal to NaN.
        y = tf.raw_ops.Select(condition=(z > y) | (z != z), x=z, y=y)
    return y


def _with_repeated_edges(x: Any, axis: int, before: Any, after: Any) -> Any:
    """Pad an axis with copies of its first and its last entry.

    Every window that reaches into the padding contains the entry copied, too, or is cut off later:
    maxima and gradients are those of windows without the padding, and no infinity is needed.
    """
    parts = [x]
    old = length_of(x, axis)
    if not isinstance(before, int) or before > 0:
        parts.insert(0, _tiled(_slice(x, axis, 0, 1), axis, before))
    if not isinstance(after, int) or after > 0:
        parts.append(_tiled(_slice(x, axis, old - 1, old), axis, after))
    return tf.concat(parts, axis) if len(parts) > 1 else x


def _slice(x: Any, axis: int, begin: Any, end: Any) -> Any:
    if isinstance(begin, int) and begin == 0 and isinstance(end, int) and end == x.shape[axis]:
        return x
    index: list[Any] = [slice(None)] * len(x.shape)
    index[axis] = slice(begin, end)
    return x[tuple(index)]


def _tiled(x: Any, axis: int, count: Any) -> Any:
    multiples: list[Any] = [1] * len(x.shape)
    multiples[axis] = count
    return tf.tile(x, multiples)
