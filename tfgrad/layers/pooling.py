"""Max-pooling whose second derivative XLA computes correctly.

In float32 XLA's second derivative of max-pooling is wrong: it compares the entries of a window in
half of their bits, and in float64 it refuses to compile. The layers below are subclasses with the
same names, arguments and outputs as Keras's, for networks that are trained with
`jit_compile=True`. Without XLA both are correct for series and images, and Keras's is faster where
windows overlap. For volumes, TensorFlow's first derivative is wrong on a CPU; see `MaxPooling3D`.
"""

from typing import Any

import keras
import tensorflow as tf

from tfgrad.internal.max_pooling import max_pool

_serializable = keras.saving.register_keras_serializable("tfgrad")


class _MaxPooling:
    """The call of the three layers."""

    pool_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str
    data_format: str

    def call(self, inputs: Any) -> Any:
        """The largest entry of every window."""
        first = 2 if self.data_format == "channels_first" else 1
        same = self.padding == "same"
        return max_pool(tf.convert_to_tensor(inputs), first, self.pool_size, self.strides, same)


@_serializable
class MaxPooling1D(_MaxPooling, keras.layers.MaxPooling1D):
    """`keras.layers.MaxPooling1D` with a second derivative that XLA computes correctly.

    See `MaxPooling2D`.

    Shape: `[batch, steps, channels]`, or as `data_format` says.
    """


@_serializable
class MaxPooling2D(_MaxPooling, keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` with a second derivative that XLA computes correctly.

    y = max over the window, computed one axis at a time by comparing and selecting slices. The
    selection is constant where it is differentiated, so derivatives of every order are selections,
    too. Values and gradients agree with Keras's layer, for overlapping windows, strides larger than
    the window and both paddings; of equal entries the first one gets the gradient. One difference:
    a NaN in a window gives NaN, where TensorFlow's operation may leave it out.

    Arguments are those of Keras.

    Shape: `[batch, height, width, channels]`, or as `data_format` says.
    """


@_serializable
class MaxPooling3D(_MaxPooling, keras.layers.MaxPooling3D):
    """`keras.layers.MaxPooling3D` with a second derivative that XLA computes correctly.

    See `MaxPooling2D`. Of equal entries the first one gets the gradient here, too. On a CPU,
    TensorFlow's operation gives the whole gradient to each of them: 8 times the gradient in a
    constant window of 2³ entries. Maps, decompositions and the steps of `PenalizedModel` correct
    that for Keras's layer; a `tf.GradientTape` of your own needs this one.

    Shape: `[batch, depth, height, width, channels]`, or as `data_format` says.
    """
