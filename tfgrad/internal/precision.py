"""Conversion of half-precision numbers to float32, and of several dtypes to the widest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def is_half(dtype: tf.DType) -> bool:
    """Whether a dtype is a floating type narrower than float32 (float16, bfloat16)."""
    return dtype.is_floating and dtype.size < 4


def at_least_float32(tensor: Any) -> tf.Tensor:
    """A tensor or a variable's value in float32 if it is half precision, else unchanged."""
    tensor = tf.convert_to_tensor(tensor)
    return tf.cast(tensor, tf.float32) if is_half(tensor.dtype) else tensor


def nest_at_least_float32(nest: Any) -> Any:
    """`at_least_float32` of every tensor of a nest."""
    return tf.nest.map_structure(at_least_float32, nest)


def widest_dtype(tensors: Sequence[tf.Tensor]) -> tf.DType:
    """The widest of the dtypes of floating tensors, at least one."""
    return max((t.dtype for t in tensors), key=lambda dtype: dtype.size)


def in_widest_dtype(*tensors: tf.Tensor) -> list[tf.Tensor]:
    """Floating tensors, all in the widest of their dtypes."""
    widest = widest_dtype(tensors)
    return [tf.cast(t, widest) for t in tensors]


def total(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The sum of floating tensors of one shape, in the widest of their dtypes."""
    return tf.add_n(in_widest_dtype(*tensors))


def of_one_dtype(tensors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Floating tensors by name, all in the widest of their dtypes."""
    if not tensors:
        return tensors
    return dict(zip(tensors, in_widest_dtype(*tensors.values()), strict=True))


def promoted_to_float32(x: Any) -> Any:
    """x in the dtype to which Keras promotes it together with float32.

    Half precision and integers become float32, float64 stays. For the `call` of layers, whose x may
    be symbolic.
    """
    return keras.ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
