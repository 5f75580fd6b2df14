"""Crops of images, linear in the image and not in the corners of the boxes."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgrad.internal.derivatives.registry import Gradient
from tfgrad.internal.derivatives.resizing import size_of

_RAW = tf.raw_ops


def _of_crop_grad_image(op: Any, v: tf.Tensor) -> list[Any]:
    grads, boxes, index = op.inputs[:3]
    cropped = _RAW.CropAndResize(
        image=v,
        boxes=boxes,
        box_ind=index,
        crop_size=size_of(grads),
        method=op.get_attr("method").decode(),
    )
    by_boxes = _RAW.CropAndResizeGradBoxes(grads=grads, image=v, boxes=boxes, box_ind=index)
    return [cropped, by_boxes, None, None]


def _of_crop_grad_boxes(op: Any, v: tf.Tensor) -> list[Any]:
    """⟨v, ∂⟨u, crop(x, b)⟩/∂b⟩ = ⟨u, ∂crop/∂b · v⟩, written out and differentiated."""
    grads, image, boxes, index = op.inputs
    with tf.GradientTape() as tape:
        wide = [tf.cast(t, tf.float32) for t in (grads, image, boxes)]
        tape.watch(wide)
        moved = _moved_crop(wide[1], wide[2], index, tf.cast(v, tf.float32), size_of(grads))
        product = tf.reduce_sum(wide[0] * moved)
    found = tape.gradient(product, wide)
    pairs = zip(found, (grads, image, boxes), strict=True)
    return [*(None if g is None else tf.cast(g, t.dtype) for g, t in pairs), None]


def _moved_crop(
    image: tf.Tensor, boxes: tf.Tensor, index: tf.Tensor, v: tf.Tensor, size: tf.Tensor
) -> tf.Tensor:
    """The derivative of bilinear crops along v, [boxes, 4], in the boxes' corners."""
    lengths = size_of(image)
    y, dy, y_inside = _samples(boxes[:, 0], boxes[:, 2], v[:, 0], v[:, 2], lengths[0], size[0])
    x, dx, x_inside = _samples(boxes[:, 1], boxes[:, 3], v[:, 1], v[:, 3], lengths[1], size[1])
    (top, bottom, ty), (left, right, tx) = _between(y, lengths[0]), _between(x, lengths[1])

    def at(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(rows[:, :, None] + columns[:, None, :])
        which = (index[:, None, None], rows[:, :, None], columns[:, None, :])
        return tf.gather_nd(image, tf.stack([tf.broadcast_to(i, shape) for i in which], -1))

    ty, tx = ty[:, :, None, None], tx[:, None, :, None]
    a, b, c, d = at(top, left), at(top, right), at(bottom, left), at(bottom, right)
    along_y = (1 - tx) * (c - a) + tx * (d - b)
    along_x = (1 - ty) * (b - a) + ty * (d - c)
    inside = (y_inside[:, :, None] & x_inside[:, None, :])[..., None]
    moved = along_y * dy[:, :, None, None] + along_x * dx[:, None, :, None]
    return tf.where(inside, moved, tf.zeros_like(moved))


def _samples(
    first: tf.Tensor, last: tf.Tensor, d_first: tf.Tensor, d_last: tf.Tensor, length: Any, size: Any
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Where a crop samples an axis, [boxes, size]; the change of that; whether it is inside."""
    steps = tf.cast(tf.range(size), tf.float32) / tf.cast(tf.maximum(size - 1, 1), tf.float32)
    part = tf.where(size > 1, steps, tf.fill([size], 0.5))
    scale = tf.cast(length - 1, tf.float32)
    place = scale * (first[:, None] * (1 - part) + last[:, None] * part)
    change = scale * (d_first[:, None] * (1 - part) + d_last[:, None] * part)
    return place, change, (place >= 0) & (place <= scale)


def _between(place: tf.Tensor, length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The two pixels that a sample lies between, and its distance from the first."""
    below = tf.floor(place)
    low, high = (tf.cast(t, tf.int32) for t in (below, tf.math.ceil(place)))
    return (*(tf.clip_by_value(t, 0, length - 1) for t in (low, high)), place - below)


GRADIENTS: dict[str, Gradient] = {
    "CropAndResizeGradImage": _of_crop_grad_image,
    "CropAndResizeGradBoxes": _of_crop_grad_boxes,
}
