"""The replacement layers: Keras's outputs, weights and state, and a right second derivative."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.finite_differences import numerical_gradient, worst_relative_error
from tfgrad import layers
from tfgrad.errors import ArgumentError

CASES = {
    "layer_norm": ("LayerNormalization", {}),
    "layer_norm_axes": ("LayerNormalization", {"axis": [1, 3], "epsilon": 1e-5}),
    "layer_norm_bare": ("LayerNormalization", {"center": False, "scale": False}),
    "group_norm": ("GroupNormalization", {"groups": 2}),
    "instance_norm": ("GroupNormalization", {"groups": -1, "scale": False}),
    "group_norm_first": ("GroupNormalization", {"groups": 3, "axis": 1}),
    "batch_norm": ("BatchNormalization", {"momentum": 0.7}),
    "batch_norm_first": ("BatchNormalization", {"axis": 1, "center": False}),
    "batch_renorm": ("BatchNormalization", {"renorm": True, "renorm_clipping": {"rmax": 1.1}}),
    "resizing": ("Resizing", {"height": 7, "width": 3}),
    "resizing_antialias": ("Resizing", {"height": 3, "width": 2, "antialias": True}),
    "resizing_crop": ("Resizing", {"height": 7, "width": 3, "crop_to_aspect_ratio": True}),
    "resizing_pad": ("Resizing", {"height": 3, "width": 9, "pad_to_aspect_ratio": True}),
    "resizing_bicubic": ("Resizing", {"height": 7, "width": 5, "interpolation": "bicubic"}),
    "resizing_nearest": ("Resizing", {"height": 7, "width": 5, "interpolation": "nearest"}),
    "up_sampling": ("UpSampling2D", {"size": (2, 3), "interpolation": "bilinear"}),
    "up_sampling_nearest": ("UpSampling2D", {"size": 2}),
}
SHAPE = (6, 5, 4)  # height, width, channels

each_case = pytest.mark.parametrize("case", CASES)


def make(case, ours=True, **more):
    name, arguments = CASES[case]
    return getattr(layers if ours else keras.layers, name)(**arguments, **more)


def images(batch=3, dtype="float32", scale=1.0):
    return (scale * np.random.default_rng(1).normal(0.5, 1.0, (batch, *SHAPE))).astype(dtype)


def randomise(layer):
    """The same random weights for any two layers with the same weights."""
    random = np.random.default_rng(2)
    layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.weights])


def pair(case, **more):
    both = make(case, **more), make(case, ours=False, **more)
    for layer in both:
        layer.build((None, *SHAPE))
        randomise(layer)
    return both


def largest_difference(a, b):
    return max((float(np.max(np.abs(p - q))) for p, q in zip(a, b, strict=True)), default=0.0)


@pytest.mark.diagonal
@each_case
@pytest.mark.parametrize("training", [True, False])
def test_output_weights_and_state_are_keras(case, training):
    ours, stock = pair(case)
    assert [(w.name, w.shape) for w in ours.weights] == [(w.name, w.shape) for w in stock.weights]
    x = images()
    for _ in range(2):
        a, b = ours(x, training=training), stock(x, training=training)
        assert a.shape == b.shape == ours.compute_output_shape(x.shape)
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=4e-6)
    assert largest_difference(ours.get_weights(), stock.get_weights()) < 1e-6


def test_masked_batch_norm_is_keras():
    ours, stock = pair("batch_norm")
    x, mask = images(), np.random.default_rng(3).random((3, 6, 5)) < 0.6
    a, b = ours(x, training=True, mask=mask), stock(x, training=True, mask=mask)
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert largest_difference(ours.get_weights(), stock.get_weights()) < 1e-6
    assert largest_difference([ours(x, training=True)], [a]) > 1e-3  # the mask mattered


@pytest.mark.diagonal
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize("size", [(1, 1), (4, 10), (11, 3), (6, 5)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos3"])
def test_resizing_is_keras_at_every_size(size, interpolation, data_format):
    arguments = {"interpolation": interpolation, "data_format": data_format}
    x = images()
    a = layers.Resizing(*size, **arguments)(x)
    np.testing.assert_allclose(a, keras.layers.Resizing(*size, **arguments)(x), atol=2e-6)
    # An unbatched image, and integers, which round.
    np.testing.assert_allclose(layers.Resizing(*size, **arguments)(x[0]), a[0], atol=2e-6)
    integers = tf.cast(40.0 * x + 100.0, tf.uint8)
    b = keras.layers.Resizing(*size, **arguments)(integers)
    np.testing.assert_array_equal(layers.Resizing(*size, **arguments)(integers), b)


def test_up_sampling_channels_first_is_keras():
    arguments = {"size": (3, 2), "interpolation": "bilinear", "data_format": "channels_first"}
    a, b = layers.UpSampling2D(**arguments)(images()), keras.layers.UpSampling2D(**arguments)
    np.testing.assert_allclose(a, b(images()), atol=1e-6)


def penalty_error(layer, training=True):
    """Worst relative error of the penalty's gradient, over weights before, in and after a layer."""
    network = keras.Sequential(
        [
            keras.Input((5, 4, 2)),
            keras.layers.Conv2D(4, 2, activation="softplus"),
            layer,
            keras.layers.Conv2D(2, 2, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    random = np.random.default_rng(4)
    for weight in network.trainable_variables:
        weight.assign(weight + 0.2 * random.normal(size=weight.shape))
    x = tf.constant(random.normal(size=(3, 5, 4, 2)))
    before = [w.numpy() for w in network.non_trainable_variables]

    def penalty():
        for weight, value in zip(network.non_trainable_variables, before, strict=True):
            weight.assign(value)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            total = tf.reduce_sum(network(x, training=training) ** 2)
        return tf.reduce_sum(tape.gradient(total, x) ** 2)

    values = [w.value for w in network.trainable_variables]
    with tf.GradientTape() as tape:
        loss = penalty()
    exact = tape.gradient(loss, values, unconnected_gradients="zero")
    compiled = tf.function(penalty, autograph=False)
    numerical = [numerical_gradient(compiled, w, 3e-4) for w in network.trainable_variables]
    return worst_relative_error(exact, numerical)


SECOND_ORDER = [
    layers.Softplus,
    layers.LayerNormalization,
    lambda: layers.LayerNormalization(axis=[1, 2]),
    lambda: layers.GroupNormalization(2),
    layers.BatchNormalization,
    lambda: layers.Resizing(5, 3),
    lambda: layers.Resizing(3, 5, interpolation="bicubic", antialias=True),
    lambda: layers.UpSampling2D((1, 2), interpolation="bilinear"),
]


@pytest.mark.parametrize("make_layer", SECOND_ORDER)
def test_second_derivative_is_right(float64, make_layer):
    assert penalty_error(make_layer()) <= 1e-7


def test_second_derivative_with_beta(float64):
    assert penalty_error(layers.Softplus(10.0)) <= 1e-7


@pytest.mark.parametrize("name", ["LayerNormalization", "BatchNormalization"])
def test_the_measurement_sees_keras_fail(float64, name):
    assert penalty_error(getattr(keras.layers, name)()) > 1e-4


def test_inference_batch_norm_second_derivative(float64):
    assert penalty_error(layers.BatchNormalization(), training=False) <= 1e-7


@pytest.mark.diagonal
@each_case
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(case, policy):
    half, full = make(case, dtype=policy), make(case)
    for layer in (half, full):
        layer.build((None, *SHAPE))
    # Squares of 300 overflow float16: the statistics must be float32.
    x = images(dtype="float16", scale=300.0).astype("float32")
    y, expected = half(x, training=True), full(x, training=True)
    assert y.dtype == half.compute_dtype
    scale = float(np.max(np.abs(expected)))
    rounding = 2e-3 if policy == "mixed_float16" else 2e-2
    np.testing.assert_allclose(tf.cast(y, "float32"), expected, atol=rounding * scale)


# Keras hands its variables to np.array, which NumPy 2 would like to have a copy argument.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("case", ["layer_norm", "group_norm", "batch_norm", "resizing"])
def test_saved_reloaded_and_exchanged_with_keras(case, tmp_path):
    def network(ours):
        stack = [keras.Input(SHAPE), make(case, ours), layers.Softplus(10.0)]
        return keras.Sequential(stack)

    ours = network(ours=True)
    randomise(ours)
    ours.save(tmp_path / "ours.keras")
    reloaded = keras.saving.load_model(tmp_path / "ours.keras")
    assert type(reloaded.layers[0]) is type(ours.layers[0])
    assert reloaded.layers[0].get_config() == ours.layers[0].get_config()
    np.testing.assert_array_equal(reloaded(images()), ours(images()))

    ours.save_weights(tmp_path / "ours.weights.h5")
    stock = network(ours=False)
    stock.load_weights(tmp_path / "ours.weights.h5")
    np.testing.assert_allclose(stock(images()), ours(images()), rtol=2e-6, atol=2e-6)


@pytest.mark.sample(2)
@each_case
def test_unknown_batch_and_size_in_a_graph(case):
    layer = make(case)
    layer.build((None, *SHAPE))
    sized = layer.__class__.__name__ in ("Resizing", "UpSampling2D")
    shape = [None, None, None, SHAPE[2]] if sized else [None, *SHAPE]
    graph = tf.function(lambda x: layer(x), input_signature=[tf.TensorSpec(shape)])
    for batch in (1, 4):
        x = images(batch)
        np.testing.assert_allclose(graph(x), layer(x), rtol=1e-6, atol=1e-6)
    assert graph.get_concrete_function().output_shapes[-1] == SHAPE[2]


@pytest.mark.sample(4)
@each_case
def test_compiled_by_xla(case):
    layer = make(case)
    layer.build((None, *SHAPE))

    def penalty(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(tf.sin(layer(x, training=True)))
        return tf.reduce_sum(tape.gradient(total, x) ** 2)

    x, state = tf.constant(images()), layer.get_weights()
    compiled = tf.function(penalty, autograph=False, jit_compile=True)(x)
    layer.set_weights(state)  # renormalisation depends on the moving statistics
    np.testing.assert_allclose(compiled, penalty(x), rtol=1e-4)


def test_training_equals_keras():
    def train(module):
        keras.utils.set_random_seed(0)
        network = keras.Sequential(
            [
                keras.Input(SHAPE),
                keras.layers.Conv2D(4, 3),
                module.BatchNormalization(),
                module.LayerNormalization(),
                keras.layers.Flatten(),
                keras.layers.Dense(1),
            ]
        )
        network.compile(keras.optimizers.SGD(0.01), "mse")
        network.fit(images(8), np.arange(8.0), batch_size=4, epochs=2, verbose=0, shuffle=False)
        return network.get_weights()

    assert largest_difference(train(layers), train(keras.layers)) < 1e-4


@pytest.mark.parametrize("beta", [0.5, 1.0, 10.0])
def test_softplus_is_its_formula(beta):
    z = np.linspace(-3.0, 3.0, 31)
    y = layers.Softplus(beta, dtype="float64")(z)
    np.testing.assert_allclose(y, np.log1p(np.exp(beta * z)) / beta, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_softplus_at_the_ends(dtype):
    z = tf.constant([-60000.0, 0.0, 60000.0], "float16" if dtype == "mixed_float16" else "float32")
    layer = layers.Softplus(10.0, dtype=dtype)
    with tf.GradientTape() as outer:
        outer.watch(z)
        with tf.GradientTape() as inner:
            inner.watch(z)
            y = layer(z)
        slope = inner.gradient(y, z)
    np.testing.assert_allclose(y, [0.0, np.log(2.0) / 10.0, 60000.0], rtol=1e-3)
    np.testing.assert_allclose(slope, [0.0, 0.5, 1.0])
    np.testing.assert_allclose(outer.gradient(slope, z), [0.0, 2.5, 0.0])


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf"), "10", True, None])
def test_softplus_refuses(beta):
    with pytest.raises(ArgumentError, match=r"beta: got .*; expected a finite number above 0"):
        layers.Softplus(beta)


def test_synchronized_batch_norm_is_refused():
    with pytest.raises(ArgumentError, match=r"synchronized: got True .*bn.*; expected .*; try"):
        layers.BatchNormalization(synchronized=True, name="bn")
