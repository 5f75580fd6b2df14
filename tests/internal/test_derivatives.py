"""Derivatives that TensorFlow lacks, against their definition, and nothing else changed."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.finite_differences import numerical_gradient, worst_relative_error
from tfgrad.internal.derivatives import additional_derivatives, corrected_derivatives

METHODS = ("nearest", "bilinear", "bicubic", "lanczos3", "gaussian", "mitchellcubic", "area")
CROP = tf.constant([[0.1, 0.1, 0.9, 0.9], [-0.2, 0.1, 0.5, 1.3]])
LINEAR = {
    **{m: lambda x, m=m: tf.image.resize(x, (7, 3), m) for m in METHODS},
    "antialiased": lambda x: tf.image.resize(x, (2, 3), antialias=True),
    "aligned": lambda x: tf.raw_ops.ResizeBilinear(images=x, size=[7, 3], align_corners=True),
    "crop": lambda x: tf.image.crop_and_resize(x, CROP, [0, 0], (3, 4)),
    "crop, nearest": lambda x: tf.image.crop_and_resize(x, CROP, [0, 0], (3, 4), "nearest"),
    "simulated quantisation": lambda x: (
        0.0 * tf.quantization.fake_quant_with_min_max_args(x) + tf.where(tf.abs(x) < 9, x, 0)
    ),
}


def transposed(function, x, v):
    """(y, J·v, Jᵀ1) by a backward pass that is differentiated."""
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
        u = tf.ones_like(y)
        outer.watch(u)
        pulled = inner.gradient(y, x, output_gradients=u)
    return y, outer.gradient(pulled, u, output_gradients=v), pulled


def forward(function, x, v):
    """(y, J·v) in forward mode."""
    with tf.autodiff.ForwardAccumulator(x, v) as accumulator:
        y = function(x)
    return y, accumulator.jvp(y)


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_operation_is_its_own_derivative(name):
    function, x = LINEAR[name], tf.random.normal([1, 5, 4, 2], seed=1)
    with additional_derivatives():
        y, product, pulled = transposed(function, x, x)
        _, followed = forward(function, x, x)
        traced = tf.function(lambda x: transposed(function, x, x)[1])(x)
    np.testing.assert_allclose(product, y, atol=2e-6)
    np.testing.assert_allclose(followed, y, atol=2e-6)
    np.testing.assert_allclose(traced, y, atol=2e-6)
    np.testing.assert_allclose(tf.reduce_sum(pulled * x), tf.reduce_sum(y), atol=1e-4)


@pytest.mark.parametrize("name", ["bicubic", "lanczos3", "area"])
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_first_derivative_in_every_float_type(name, dtype):
    """TensorFlow has none of these, and does not say so of bicubic resizing."""
    x = tf.cast(tf.random.normal([1, 5, 4, 2], seed=1), dtype)
    with additional_derivatives():
        y, product, pulled = transposed(LINEAR[name], x, x)
    tolerance = 1e-5 if dtype == "float64" else 0.02
    assert pulled.dtype == x.dtype
    np.testing.assert_allclose(tf.cast(product, y.dtype), y, atol=tolerance)
    total = tf.reduce_sum(tf.cast(pulled * x, tf.float32))
    np.testing.assert_allclose(total, tf.reduce_sum(y), atol=10 * tolerance)


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "nearest", "antialiased", "crop"])
def test_a_function_that_was_differentiated_before(name):
    function = tf.function(lambda x: tf.sin(LINEAR[name](x)))
    x = tf.random.normal([1, 5, 4, 2], seed=1)
    with tf.GradientTape() as tape:  # TensorFlow keeps the backward pass that it makes here
        tape.watch(x)
        y = function(x)
    tape.gradient(y, x)
    with additional_derivatives():
        y, product, _ = transposed(function, x, x)
    np.testing.assert_allclose(product, tf.cos(LINEAR[name](x)) * LINEAR[name](x), atol=1e-5)


@pytest.mark.parametrize("size", [(3, 4), (1, 2)])
def test_the_derivative_of_a_crop_in_its_boxes(size):
    image = tf.random.normal([2, 6, 5, 2], seed=1)
    boxes = tf.constant([[0.13, 0.1, 0.81, 0.9], [-0.2, 0.1, 0.53, 1.27], [0.9, 0.8, 0.22, 0.1]])
    v = tf.random.normal([3, 4], seed=2)

    def crop(boxes):
        return tf.image.crop_and_resize(image, boxes, [0, 1, 1], size)

    step = 1e-3
    differences = (crop(boxes + step * v) - crop(boxes - step * v)) / (2 * step)
    with additional_derivatives():
        for product in (transposed(crop, boxes, v)[1], forward(crop, boxes, v)[1]):
            np.testing.assert_allclose(product, differences, atol=2e-3)


def test_the_second_derivative_of_softsign():
    x = tf.Variable(np.random.default_rng(0).normal(size=(2, 3)))

    def value():
        with tf.GradientTape() as tape:
            tape.watch(x.value())
            y = tf.reduce_sum(tf.nn.softsign(x) ** 2)
        return tf.reduce_sum(tape.gradient(y, x) ** 2)

    with additional_derivatives():
        with tf.GradientTape() as tape:
            loss = value()
        exact = tape.gradient(loss, x)
    assert worst_relative_error([exact], [numerical_gradient(value, x)]) < 1e-8


def test_outside_the_context_tensorflow_is_as_before():
    x = tf.random.normal([1, 5, 4, 2], seed=1)
    assert transposed(LINEAR["bilinear"], x, x)[1] is None
    with pytest.raises(LookupError, match="no entry for: ResizeBicubicGrad"):
        transposed(LINEAR["bicubic"], x, x)
    with pytest.raises(LookupError, match="no entry for: ResizeArea"):
        transposed(LINEAR["area"], x, x)
    half = tf.cast(x, tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(half)
        y = LINEAR["bicubic"](half)
    assert tape.gradient(y, half) is None


def test_a_strict_context_refuses_what_is_dropped():
    x = tf.constant([[0.2, 0.4, 0.6]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = tf.image.hsv_to_rgb(x)
    assert tape.gradient(y, x) is None
    with additional_derivatives(strict=True), pytest.raises(LookupError, match="HSVToRGB: Tensor"):
        tape.gradient(y, x)


@pytest.mark.parametrize("axes", [8, 9, 10])
def test_a_slice_of_a_tensor_with_many_axes(axes):
    shape = (4, 8, *[1, 2] * axes)[:axes]  # others cannot be sliced with nine axes
    x = tf.reshape(tf.range(np.prod(shape), dtype=tf.float64), shape)
    with corrected_derivatives():
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.reduce_sum(x[1] ** 3) + tf.reduce_sum(x[-3:-1] ** 3) + tf.reduce_sum(x[:])
            gradient = tape.gradient(y, x)
        second = outer.gradient(gradient, x)
    times = np.reshape([0.0, 2.0, 1.0, 0.0], [4] + [1] * (axes - 1))
    np.testing.assert_allclose(gradient, 3 * times * x.numpy() ** 2 + 1)
    np.testing.assert_allclose(second, 6 * times * x.numpy())
