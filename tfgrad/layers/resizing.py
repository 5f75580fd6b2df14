"""Resizing as products with constant matrices, which have derivatives of every order."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfgrad.internal.lengths import length_of
from tfgrad.internal.precision import promoted_to_float32

_serializable = keras.saving.register_keras_serializable("tfgrad")


@_serializable
class Resizing(keras.layers.Resizing):
    """`keras.layers.Resizing` with a correct second derivative.

    y = M_h x M_wᵀ for every image and channel. Resizing is linear and separable, so it equals two
    products with constant matrices, and a product has derivatives of every order. The matrices come
    from TensorFlow, which resizes the identity; so every `interpolation` is supported, with or
    without `antialias`.

    Arguments are those of Keras. Values agree with Keras to float32 rounding, unless the device
    rounds matrix products to TF32, as GPUs do by default. Integer images have no gradient and are
    resized by Keras.

    Shape: `[batch, height, width, channels]`, or as `data_format` says; one image without the batch
    axis, too.
    """

    def _transform_images(self, images: Any, transformation: Any, interpolation: str) -> Any:
        if not images.dtype.is_floating:
            return super()._transform_images(images, transformation, interpolation)
        x = promoted_to_float32(images)
        if self.crop_to_aspect_ratio:
            x = self._crop(x)
        elif self.pad_to_aspect_ratio:
            x = self._pad(x)
        size = (self.height, self.width)
        for axis, length in zip((self.height_axis, self.width_axis), size, strict=True):
            x = resize_axis(x, len(x.shape) + axis, length, interpolation, self.antialias)
        if images.dtype == tf.float16:  # bicubic overshoots
            return tf.saturate_cast(x, images.dtype)
        return tf.cast(x, images.dtype)

    def _crop(self, x: Any) -> Any:
        """The largest centred window with the target's aspect ratio, as Keras rounds it."""
        height, width = length_of(x, self.height_axis), length_of(x, self.width_axis)
        rows = _clip_length(_scaled(width, self.height, self.width), 1, height)
        columns = _clip_length(_scaled(height, self.width, self.height), 1, width)
        begin: list[Any] = [0] * len(x.shape)
        extent: list[Any] = [length_of(x, axis) for axis in range(len(x.shape))]
        begin[self.height_axis], extent[self.height_axis] = (height - rows) // 2, rows
        begin[self.width_axis], extent[self.width_axis] = (width - columns) // 2, columns
        return tf.slice(x, begin, extent)

    def _pad(self, x: Any) -> Any:
        """Even borders that give the target's aspect ratio, as Keras rounds them."""
        height, width = length_of(x, self.height_axis), length_of(x, self.width_axis)
        rows = _clip_length(_scaled(width, self.height, self.width), height, None)
        columns = _clip_length(_scaled(height, self.width, self.height), width, None)
        border: list[Any] = [[0, 0] for _ in x.shape]
        border[self.height_axis] = [(rows - height) // 2] * 2
        border[self.width_axis] = [(columns - width) // 2] * 2
        return tf.pad(x, border, constant_values=self.fill_value)


@_serializable
class UpSampling2D(keras.layers.UpSampling2D):
    """`keras.layers.UpSampling2D` with a correct second derivative for every interpolation.

    y = M_h x M_wᵀ with constant matrices (see `Resizing`); `"nearest"` repeats rows and columns as
    Keras does.

    Arguments are those of Keras.

    Shape: `[batch, height, width, channels]`, or as `data_format` says.
    """

    def call(self, inputs: Any) -> Any:
        """Enlarge height and width by the integers `size`."""
        if self.interpolation == "nearest":
            return super().call(inputs)
        x = promoted_to_float32(inputs)
        first = 2 if self.data_format == "channels_first" else 1
        for axis, factor in zip((first, first + 1), self.size, strict=True):
            x = resize_axis(x, axis, length_of(x, axis) * factor, self.interpolation)
        return ops.cast(x, self.compute_dtype)


def _scaled(length: Any, numerator: int, denominator: int) -> Any:
    """⌊length · numerator / denominator⌋, in float32 as Keras computes it."""
    if isinstance(length, int):
        return int(np.float32(length * numerator) / np.float32(denominator))
    return tf.cast(tf.cast(length * numerator, tf.float32) / denominator, tf.int32)


def _clip_length(length: Any, low: Any, high: Any) -> Any:
    if all(isinstance(n, int) for n in (length, low, high) if n is not None):
        length = max(length, low)
        return length if high is None else min(length, high)
    length = tf.maximum(length, low)
    return length if high is None else tf.minimum(length, high)


def resize_axis(x: Any, axis: int, length: Any, method: str, antialias: bool = False) -> Any:
    """Resize one axis of a floating tensor: a product with the matrix [length, old length]."""
    old = length_of(x, axis)
    if isinstance(old, int) and isinstance(length, int):
        with tf.init_scope():  # a constant: XLA does not support every resize operation
            matrix = _resize_matrix(old, length, method, antialias).numpy()
    else:
        matrix = _resize_matrix(old, length, method, antialias)
    matrix = tf.cast(matrix, x.dtype)
    dimensions = [length_of(x, a) for a in range(len(x.shape))]
    after = dimensions[axis + 1 :]
    if after:  # one product per leading index; no axis is transposed
        y = tf.matmul(matrix, tf.reshape(x, [-1, old, _product(after)]))
    else:
        y = tf.matmul(tf.reshape(x, [-1, old]), matrix, transpose_b=True)
    return tf.reshape(y, [*dimensions[:axis], length, *after])


def _resize_matrix(old: Any, length: Any, method: str, antialias: bool) -> Any:
    """TensorFlow's result for the unit vectors: row o holds the weights of output o."""
    identity = tf.eye(old)[:, tf.newaxis, :]  # one column, which keeps its length 1
    return tf.image.resize(identity, (length, 1), method=method, antialias=antialias)[:, 0, :]


def _product(lengths: list[Any]) -> Any:
    product: Any = 1
    for length in lengths:
        product = product * length
    return product
