"""Linear resizing y = A x, of which TensorFlow has Aᵀ u as an operation without a derivative.

The derivative of Aᵀ u with respect to u is A again. Resizing by areas has no first derivative
either, nor have some dtypes.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgrad.internal.derivatives.registry import Gradient, linear, options

_RAW = tf.raw_ops


def size_of(image: tf.Tensor) -> tf.Tensor:
    """The height and width of images, as a constant where they are known."""
    known = image.shape[1:3]
    return tf.constant(known.as_list()) if known.is_fully_defined() else tf.shape(image)[1:3]


# Gradients of the operations


def _of_bilinear(op: Any, upstream: tf.Tensor) -> list[Any]:
    image, how = op.inputs[0], options(op, "align_corners", "half_pixel_centers")
    return [
        linear(
            lambda u: _RAW.ResizeBilinearGrad(grads=u, original_image=image, **how),
            lambda v: _RAW.ResizeBilinear(images=v, size=size_of(upstream), **how),
            upstream,
        ),
        None,
    ]


def _of_nearest(op: Any, upstream: tf.Tensor) -> list[Any]:
    size, how = size_of(op.inputs[0]), options(op, "align_corners", "half_pixel_centers")
    return [
        linear(
            lambda u: _RAW.ResizeNearestNeighborGrad(grads=u, size=size, **how),
            lambda v: _RAW.ResizeNearestNeighbor(images=v, size=size_of(upstream), **how),
            upstream,
        ),
        None,
    ]


def _of_bicubic(op: Any, upstream: tf.Tensor) -> list[Any]:
    # TensorFlow gives images of half precision no gradient.
    image, dtype = _single(op.inputs[0], tf.float64), op.inputs[0].dtype
    how = options(op, "align_corners", "half_pixel_centers")
    return [
        linear(
            lambda u: tf.cast(_RAW.ResizeBicubicGrad(grads=u, original_image=image, **how), dtype),
            lambda v: _RAW.ResizeBicubic(images=v, size=size_of(upstream), **how),
            upstream,
        ),
        None,
    ]


def _of_scale_and_translate(op: Any, upstream: tf.Tensor) -> list[Any]:
    # TensorFlow's gradient takes float32 images alone.
    image, dtype, (scale, translation) = _single(op.inputs[0]), op.inputs[0].dtype, op.inputs[2:]
    how = options(op, "kernel_type", "antialias")
    more = {"scale": scale, "translation": translation, **how}
    return [
        linear(
            lambda u: tf.cast(
                _RAW.ScaleAndTranslateGrad(grads=u, original_image=image, **more), dtype
            ),
            lambda v: _RAW.ScaleAndTranslate(images=v, size=size_of(upstream), **more),
            upstream,
        ),
        *(None, None, None),
    ]


def _of_area(op: Any, upstream: tf.Tensor) -> list[Any]:
    """Mᵀ_h u M_w: the matrices come from TensorFlow, which resizes the identity."""
    image, how = op.inputs[0], options(op, "align_corners")
    lengths, sizes = size_of(image), size_of(upstream)
    rows, columns = (_area_matrix(lengths[i], sizes[i], how) for i in (0, 1))
    return [tf.cast(tf.einsum("bpqc,ph,qw->bhwc", upstream, rows, columns), image.dtype), None]


def _area_matrix(length: tf.Tensor, size: tf.Tensor, how: dict[str, Any]) -> tf.Tensor:
    identity = tf.eye(length)[tf.newaxis, ..., tf.newaxis]
    return _RAW.ResizeArea(images=identity, size=[size, length], **how)[0, ..., 0]


# Gradients of the gradients' operations, which a graph traced outside the context contains


def _of_bilinear_grad(op: Any, v: tf.Tensor) -> list[Any]:
    if op.inputs is None:  # an eager tape does not keep them; `_of_bilinear` is differentiated
        return [None, None]
    how = options(op, "align_corners", "half_pixel_centers")
    return [_RAW.ResizeBilinear(images=v, size=size_of(op.inputs[0]), **how), None]


def _of_nearest_grad(op: Any, v: tf.Tensor) -> list[Any]:
    how = options(op, "align_corners", "half_pixel_centers")
    return [_RAW.ResizeNearestNeighbor(images=v, size=size_of(op.inputs[0]), **how), None]


def _of_bicubic_grad(op: Any, v: tf.Tensor) -> list[Any]:
    how = options(op, "align_corners", "half_pixel_centers")
    return [_RAW.ResizeBicubic(images=v, size=size_of(op.inputs[0]), **how), None]


def _of_scale_and_translate_grad(op: Any, v: tf.Tensor) -> list[Any]:
    how = options(op, "kernel_type", "antialias")
    more = {"scale": op.inputs[2], "translation": op.inputs[3], **how}
    resized = _RAW.ScaleAndTranslate(images=v, size=size_of(op.inputs[0]), **more)
    return [resized, None, None, None]


def _single(image: tf.Tensor, *other: tf.DType) -> tf.Tensor:
    return image if image.dtype in (tf.float32, *other) else tf.cast(image, tf.float32)


GRADIENTS: dict[str, Gradient] = {
    "ResizeBilinear": _of_bilinear,
    "ResizeNearestNeighbor": _of_nearest,
    "ResizeBicubic": _of_bicubic,
    "ScaleAndTranslate": _of_scale_and_translate,
    "ResizeArea": _of_area,
    "ResizeBilinearGrad": _of_bilinear_grad,
    "ResizeNearestNeighborGrad": _of_nearest_grad,
    "ResizeBicubicGrad": _of_bicubic_grad,
    "ScaleAndTranslateGrad": _of_scale_and_translate_grad,
}
