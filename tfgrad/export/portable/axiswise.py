"""Resizing, mirror padding and their gradients, as a matrix for each axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

# The attributes of a resizing that its gradient has, too.
_ATTRIBUTES = ("align_corners", "half_pixel_centers")


def resizing(name: str) -> Callable[..., Any]:
    """The rule of a resizing, a class of `tf.raw_ops`."""

    def rule(operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]) -> Any:
        x, size = tensors[0], values[1]
        if not isinstance(size, np.ndarray) or None in x.shape:
            return None
        found = tf.cast(x, tf.float32)
        for axis, length in zip((1, 2), size, strict=True):
            matrix = _resized(name, operation, x.shape[axis], int(length))
            found = _multiplied(found, axis, matrix)
        return found

    return rule


def resizing_gradient(name: str) -> Callable[..., Any]:
    """The rule of the gradient of a resizing, a class of `tf.raw_ops`."""

    def rule(operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]) -> Any:
        gradient, shape = tensors[0], list(operation.outputs[0].shape)
        if name == "ResizeNearestNeighbor":
            if not isinstance(values[1], np.ndarray):
                return None
            shape = [None, *map(int, values[1]), None]
        else:
            shape = list(tensors[1].shape)
        if None in shape[1:3] or None in gradient.shape:
            return None
        found = gradient
        for axis in (1, 2):
            matrix = _resized(name, operation, shape[axis], gradient.shape[axis])
            found = _multiplied(found, axis, matrix.T)
        return found

    return rule


def mirror_pad_gradient(
    operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]
) -> Any:
    """The sum of the gradients of an entry and of its mirror images."""
    gradient, pads = tensors[0], values[1]
    if not isinstance(pads, np.ndarray) or None in gradient.shape:
        return None
    mode = {"REFLECT": "reflect", "SYMMETRIC": "symmetric"}
    kind: Any = mode[operation.get_attr("mode").decode()]
    found = gradient
    for axis, (before, after) in enumerate(pads):
        if before or after:
            length = gradient.shape[axis] - int(before) - int(after)
            sources = np.pad(np.arange(length), (int(before), int(after)), kind)
            found = _multiplied(found, axis, np.eye(length, dtype="float32")[sources].T)
    return found


def _resized(name: str, operation: tf.Operation, old: int, new: int) -> np.ndarray:
    """The matrix [new, old] of one axis: TensorFlow's resizing of the unit vectors."""
    with tf.init_scope():
        unit = tf.eye(old)[:, :, tf.newaxis, tf.newaxis]
        options = {key: operation.get_attr(key) for key in _ATTRIBUTES}
        found = getattr(tf.raw_ops, name)(images=unit, size=[new, 1], **options)
        return found.numpy()[:, :, 0, 0].T


def _multiplied(x: tf.Tensor, axis: int, matrix: np.ndarray) -> tf.Tensor:
    """A matrix times an axis of a tensor of static shape."""
    lengths = list(x.shape)
    before, after = (int(np.prod(part)) for part in (lengths[:axis], lengths[axis + 1 :]))
    flat = tf.reshape(x, [before, lengths[axis], after])
    turned = tf.reshape(tf.transpose(flat, [0, 2, 1]), [before * after, lengths[axis]])
    product = tf.matmul(turned, tf.constant(matrix.T.copy(), x.dtype))
    product = tf.transpose(tf.reshape(product, [before, after, matrix.shape[0]]), [0, 2, 1])
    return tf.reshape(product, [*lengths[:axis], matrix.shape[0], *lengths[axis + 1 :]])
