"""Max-pooling: Keras's values and gradients to second order, also where XLA compiles."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.layers.test_replacements import penalty_error
from tfgrad import layers

# Shape without batch and channels, window, strides: equal, overlapping, apart, unequal by axis.
CASES = {
    "equal": ((8, 6), (2, 2), (2, 2)),
    "ragged": ((7, 9), (2, 3), (2, 3)),
    "overlapping": ((8, 9), (3, 3), (2, 2)),
    "dense": ((5, 6), (3, 2), (1, 1)),
    "apart": ((9, 8), (2, 2), (3, 4)),
    "wide": ((9, 4), (5, 4), (2, 3)),
    "series": ((11,), (5,), (2,)),
    "volume": ((5, 4, 6), (3, 2, 3), (2, 2, 1)),
}
each_case = pytest.mark.parametrize("case", CASES)
each_padding = pytest.mark.parametrize("padding", ["valid", "same"])


def pair(case, padding, **more):
    shape, window, strides = CASES[case]
    name = f"MaxPooling{len(shape)}D"
    arguments = {"pool_size": window, "strides": strides, "padding": padding, **more}
    return [getattr(module, name)(**arguments) for module in (layers, keras.layers)]


def images(case, ties=False, dtype="float64"):
    """A batch; with ties, of three values, so that most windows have several maxima."""
    random = np.random.default_rng(0)
    shape = (2, *CASES[case][0], 3)
    x = random.integers(-1, 2, shape) if ties else random.normal(size=shape)
    return tf.constant(x, dtype)


def three_orders(layer, x):
    """y, the gradient g of a sum of its exponentials, and the gradient of ‖g‖²."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = layer(tf.sin(x))
            weights = tf.reshape(tf.cast(tf.range(tf.size(y)) % 7 + 1, x.dtype), tf.shape(y))
            total = tf.reduce_sum(weights * tf.exp(y))
        g = inner.gradient(total, x)
        square = tf.reduce_sum(g**2)
    return y, g, outer.gradient(square, x)


@pytest.mark.diagonal
@each_case
@each_padding
@pytest.mark.parametrize("ties", [False, True])
def test_values_and_both_gradients_are_keras(case, padding, ties):
    volume = case == "volume"
    # TensorFlow pools volumes in float32 at most, and on a CPU gives every maximum the gradient.
    ours, stock = pair(case, padding, dtype="float32" if volume else "float64")
    x = images(case, ties and not volume, ours.dtype)
    for got, expected in zip(three_orders(ours, x), three_orders(stock, x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5 if volume else 1e-12, atol=1e-10)
    assert ours.compute_output_shape(x.shape) == tuple(ours(x).shape)


def nearly_equal(case):
    """Entries that agree in half of float32's bits, which is what XLA compares of its own."""
    return images(case, ties=True, dtype="float32") + 1e-3 * images(case, dtype="float32")


def xla_error(layer, x):
    """The largest deviation of the second derivative under XLA, over its largest value."""
    compiled = tf.function(lambda x: three_orders(layer, x), jit_compile=True, autograph=False)(x)
    expected = three_orders(layer, x)[2]
    return float(tf.reduce_max(abs(compiled[2] - expected)) / tf.reduce_max(abs(expected)))


@pytest.mark.long
@pytest.mark.parametrize(("case", "padding"), [("overlapping", "same"), ("apart", "valid")])
def test_xla_computes_what_the_graph_computes(case, padding):
    ours, _ = pair(case, padding)
    assert xla_error(ours, nearly_equal(case)) < 1e-6


def test_the_measurement_sees_xla_fail():
    _, stock = pair("overlapping", "same")
    assert xla_error(stock, nearly_equal("overlapping")) > 1e-2


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_second_derivative_is_right(float64, padding):
    assert penalty_error(layers.MaxPooling2D(2, 1, padding=padding)) <= 1e-7


@each_case
@each_padding
def test_channels_first_and_unknown_sizes(case, padding):
    x = images(case, dtype="float32")
    ours, stock = pair(case, padding)
    expected = stock(x)
    rank = len(CASES[case][0])
    spec = tf.TensorSpec([None] * (rank + 1) + [3])
    graph = tf.function(lambda x: ours(x), input_signature=[spec], autograph=False)
    np.testing.assert_array_equal(graph(x), expected)
    first, _ = pair(case, padding, data_format="channels_first")
    turned = first(keras.ops.moveaxis(x, -1, 1))
    np.testing.assert_array_equal(keras.ops.moveaxis(turned, 1, -1), expected)
    np.testing.assert_array_equal(ours(x[:0]), stock(x[:0]))


def test_infinities_and_nans():
    x = np.array([[1.0, np.nan], [-np.inf, -np.inf]], "float32")[None, :, :, None]
    y = np.ravel(layers.MaxPooling2D((1, 2))(x))
    assert np.isnan(y[0])
    assert y[1] == -np.inf


def test_saved_reloaded_and_exchanged_with_keras(tmp_path):
    ours, stock = pair("overlapping", "same", name="pool")
    assert ours.get_config() == stock.get_config()
    network = keras.Sequential([keras.Input((8, 9, 3)), ours])
    network.save(tmp_path / "network.keras")
    reloaded = keras.saving.load_model(tmp_path / "network.keras")
    assert type(reloaded.layers[0]) is layers.MaxPooling2D
    x = images("overlapping", dtype="float32")
    np.testing.assert_array_equal(reloaded(x), network(x))


def test_it_has_no_term_of_its_own():
    pool = layers.MaxPooling2D(3, 2, padding="same", name="pool")
    stack = [keras.layers.Conv2D(2, 2, name="conv"), pool, keras.layers.Flatten()]
    network = keras.Sequential([keras.Input((6, 6, 1)), *stack, keras.layers.Dense(2, name="top")])
    full = tfgrad.full_gradients(network, tf.random.normal((2, 6, 6, 1)))
    assert set(full.bias_gradients) == {"conv", "top"}
    np.testing.assert_array_less(full.completeness_error(), 1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_equal_entries_share_one_gradient(axes):
    """On a CPU, TensorFlow passes the gradient of volumes to each of 8 equal entries."""
    pool = getattr(layers, f"MaxPooling{axes}D")(2)
    x = tf.zeros([1, *[4] * axes, 1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(pool(x))
    slopes = np.asarray(tape.gradient(total, x))
    assert slopes.sum() == 2**axes and (slopes <= 1).all()
    assert slopes.reshape(-1)[0] == 1  # the first entry of a window
