"""Slices of tensors with more than eight axes, of which TensorFlow's first derivative is wrong.

TensorFlow takes slices along the first axis of such a tensor, and refuses others.
`StridedSliceGrad` has no kernel for nine axes, raises no error and leaves its output as it was.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgrad.internal.derivatives.registry import Gradient

_HANDLED = 8


def _of_strided_slice(op: Any, upstream: tf.Tensor) -> Any:
    """The values in the rows of the first axis that were taken, zeros elsewhere."""
    x, begin, end, strides = op.inputs
    other = op.get_attr("ellipsis_mask") | op.get_attr("new_axis_mask")
    if x.shape.rank is None or x.shape.rank <= _HANDLED or begin.shape[0] == 0 or other & 1:
        return NotImplemented
    shape = tf.shape(x)
    masks = ("begin_mask", "end_mask", "shrink_axis_mask")
    rows = tf.raw_ops.StridedSlice(
        input=tf.range(shape[0]),
        begin=begin[:1],
        end=end[:1],
        strides=strides[:1],
        **{name: op.get_attr(name) & 1 for name in masks},
    )
    rows = tf.reshape(rows, [-1, 1])
    size = tf.reduce_prod(shape[1:])
    values = tf.scatter_nd(rows, tf.reshape(upstream, [-1, size]), [shape[0], size])
    return [tf.reshape(values, shape), None, None, None]


GRADIENTS: dict[str, Gradient] = {"StridedSlice": _of_strided_slice}
