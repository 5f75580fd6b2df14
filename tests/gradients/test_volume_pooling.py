"""Max-pooling of volumes whose windows have equal entries, where TensorFlow's gradient is wrong."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.guard_cases import Lambda
from tfgrad import second_order
from tfgrad.errors import SecondOrderWarning
from tfgrad.internal.derivatives import additional_derivatives, corrected_derivatives

L = keras.layers
LABELS = np.array([0, 1])
# A constant background; not 0, with which the gradient of a kernel has no part of it.
IMAGES = np.full((2, 6, 6, 1), 0.5, "float32")
IMAGES[0, :3, :3] = np.random.default_rng(0).random((3, 3, 1))
VOLUMES = IMAGES[:, np.newaxis]
RAW = {"ksize": [1, 1, 2, 2, 1], "strides": [1, 1, 2, 2, 1], "padding": "VALID"}
POOLS = {
    "layer": lambda: L.MaxPooling3D((1, 2, 2), name="pool"),
    "operation": lambda: Lambda(lambda x: keras.ops.max_pool(x, (1, 2, 2)), name="pool"),
    "raw": lambda: Lambda(lambda x: tf.raw_ops.MaxPool3D(input=x, **RAW), name="pool"),
}


def pair(pool="layer"):
    """The same network for volumes of depth 1 and for images; its background is constant."""
    networks = []
    for axes, pooling in ((3, POOLS[pool]()), (2, L.MaxPooling2D(2))):
        conv, ones = getattr(L, f"Conv{axes}D"), (1,) * (axes - 2)
        options = {"padding": "same", "activation": "softplus", "bias_initializer": "ones"}
        stack = [conv(2, (*ones, 3, 3), **options), pooling, conv(2, 1, **options), L.Flatten()]
        networks.append(keras.Sequential([keras.Input((*ones, 6, 6, 1)), *stack, L.Dense(2)]))
    weights = networks[0].get_weights()
    shapes = [w.shape for w in networks[1].get_weights()]
    networks[1].set_weights([w.reshape(s) for w, s in zip(weights, shapes, strict=True)])
    return networks


def assert_equal(volume, image):
    np.testing.assert_allclose(np.ravel(volume), np.ravel(image), rtol=2e-5, atol=1e-6)


@pytest.mark.sample(3)
@pytest.mark.parametrize("pool", POOLS)
def test_maps_and_decompositions_are_those_of_images(pool):
    volume, image = pair(pool)
    full = tfgrad.full_gradients(volume, VOLUMES)
    np.testing.assert_array_less(full.completeness_error(), 1e-5)
    assert_equal(full.input_gradient, tfgrad.full_gradients(image, IMAGES).input_gradient)
    maps = [tfgrad.saliency.InputGradient(m)(x) for m, x in ((volume, VOLUMES), (image, IMAGES))]
    assert_equal(*maps)


def test_a_penalised_step_is_that_of_images():
    networks = pair()
    for network, x in zip(networks, (VOLUMES, IMAGES), strict=True):
        model = tfgrad.PenalizedModel(network, [tfgrad.penalties.GradientNorm(1.0)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.5), loss, jit_compile=False)
        model.train_on_batch(x, LABELS)
    for one, other in zip(*(n.get_weights() for n in networks), strict=True):
        assert_equal(one, other)


def penalty_gradient(network, x):
    with tf.GradientTape() as tape:
        values = tfgrad.penalties.GradientNorm(1.0).per_example(network, x, LABELS)
        total = tf.reduce_sum(values)
    return tape.gradient(total, network.trainable_variables[0].value)


@pytest.mark.parametrize("pool", ["layer", "operation"])
def test_a_tape_of_the_user_is_warned_of_the_layer_and_mended(pool):
    volume, image = pair(pool)
    with pytest.warns(SecondOrderWarning, match=r"(?s)layer 'pool' .*equal entries.*make_safe"):
        wrong = penalty_gradient(volume, VOLUMES)
    right = penalty_gradient(image, IMAGES)
    assert np.abs(np.ravel(wrong) - np.ravel(right)).max() > 1e-2 * np.abs(right).max()
    report = second_order.make_safe(volume)
    assert [change.functions for change in report.changed] == [("tf.nn.max_pool3d",)]
    assert not report.remaining
    assert not second_order.make_safe(volume).changed
    assert_equal(penalty_gradient(volume, VOLUMES), right)


@pytest.mark.parametrize("window", [(2, 2, "VALID"), (3, 2, "SAME"), (2, 1, "SAME")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_sum_to_those_of_the_outputs(window, dtype):
    x = tf.cast(np.random.default_rng(0).integers(0, 2, (2, 4, 4, 5, 2)), dtype)

    def slopes(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.max_pool3d(x, *window)
        return y, tape.gradient(y, x)

    with corrected_derivatives():
        y, eager = slopes(x)
        traced = tf.function(slopes, autograph=False)(x)[1]
        with corrected_derivatives(False):
            theirs = slopes(x)[1]
    assert eager.dtype == x.dtype
    assert float(tf.reduce_sum(tf.cast(eager, "float32"))) == np.prod(y.shape)
    np.testing.assert_array_equal(tf.cast(traced, "float32"), tf.cast(eager, "float32"))
    assert float(tf.reduce_sum(tf.cast(theirs, "float32"))) > np.prod(y.shape)
    np.testing.assert_array_equal(slopes(x)[1], theirs)  # outside, TensorFlow's


def test_where_one_entry_is_largest_it_is_the_gradient_of_the_maximum():
    x = tf.constant(np.random.default_rng(0).permutation(64).reshape(1, 4, 4, 4, 1), "float32")

    def cells(t):
        for axis in (1, 2, 3):
            lengths = list(t.shape)
            lengths[axis : axis + 1] = [2, 2]
            t = tf.reduce_max(tf.reshape(t, lengths), axis + 1)
        return t

    def derivatives(pool):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                total = tf.reduce_sum(tf.sin(pool(x)))
            slope = inner.gradient(total, x)
            square = tf.reduce_sum(slope**2)
        return slope, outer.gradient(square, x)

    with additional_derivatives():
        got = derivatives(lambda t: tf.nn.max_pool3d(t, 2, 2, "VALID"))
    for one, other in zip(got, derivatives(cells), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
