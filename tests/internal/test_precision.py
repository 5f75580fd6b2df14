"""Half precision becomes float32, several dtypes the widest; everything else stays as it is."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad.internal import precision

HALF = ["float16", "bfloat16"]
OTHERS = ["float32", "float64", "int8", "int64", "bool"]


@pytest.mark.parametrize("dtype", HALF + OTHERS)
def test_which_dtypes_are_half_precision(dtype):
    assert precision.is_half(tf.as_dtype(dtype)) == (dtype in HALF)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_widened_exactly(dtype):
    x = tf.cast([1.0, -0.5, 3e4], dtype)
    wide = precision.at_least_float32(x)
    assert wide.dtype == tf.float32
    np.testing.assert_array_equal(tf.cast(wide, dtype), x)


@pytest.mark.parametrize("dtype", OTHERS)
def test_other_tensors_are_returned_unchanged(dtype):
    x = tf.cast([1, 0], dtype)
    assert precision.at_least_float32(x) is x


def test_arrays_and_variables_become_tensors():
    half = np.ones(2, np.float16)
    for value in (half, tf.Variable(half), keras.Variable(half, dtype="float16")):
        wide = precision.at_least_float32(value)
        assert tf.is_tensor(wide)
        assert wide.dtype == tf.float32


def test_the_gradient_comes_back_in_half_precision():
    x = tf.constant([1.0, 2.0], tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(precision.at_least_float32(x) ** 2)
    gradient = tape.gradient(y, x)
    assert gradient.dtype == tf.float16
    np.testing.assert_array_equal(gradient, [2.0, 4.0])


def test_every_tensor_of_a_nest():
    nest = {"a": tf.ones(2, tf.float16), "b": (tf.ones(2, tf.float64), tf.ones(2, tf.int32))}
    wide = precision.nest_at_least_float32(nest)
    assert (wide["a"].dtype, wide["b"][0].dtype, wide["b"][1].dtype) == (
        tf.float32,
        tf.float64,
        tf.int32,
    )


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("uint8", "float32"),
        ("int32", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_promotion_in_layers(dtype, expected):
    assert precision.promoted_to_float32(tf.cast([1, 2], dtype)).dtype == expected
    symbolic = precision.promoted_to_float32(keras.KerasTensor((None, 2), dtype))
    assert symbolic.dtype == expected


def test_several_dtypes_become_the_widest():
    narrow, wide = tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0], tf.float64)
    for pair in ([narrow, wide], [wide, narrow]):
        assert [t.dtype for t in precision.in_widest_dtype(*pair)] == [tf.float64] * 2
        assert precision.total(pair).dtype == tf.float64
        np.testing.assert_array_equal(precision.total(pair), [4.0, 6.0])
    assert precision.in_widest_dtype(narrow)[0] is narrow
    named = precision.of_one_dtype({"a": narrow, "b": wide})
    assert {name: t.dtype for name, t in named.items()} == {"a": tf.float64, "b": tf.float64}
    assert precision.of_one_dtype({}) == {}
