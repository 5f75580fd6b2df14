"""`make_safe`: the same outputs from the same weights, and second derivatives that are right."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.guard_cases import SHAPE, Lambda, network_with
from tfgrad import second_order
from tfgrad.penalties import GradientNorm

L = keras.layers
OPTIONS = {
    "layer": lambda: L.LayerNormalization(),
    "layer_axes": lambda: L.LayerNormalization(axis=[1, 3], epsilon=1e-5),
    "layer_bare": lambda: L.LayerNormalization(center=False, scale=False),
    "group": lambda: L.GroupNormalization(2),
    "group_first": lambda: L.GroupNormalization(4, axis=1, scale=False),
    "instance": lambda: L.GroupNormalization(-1, center=False),
    "batch": lambda: L.BatchNormalization(momentum=0.7),
    "batch_first": lambda: L.BatchNormalization(axis=1, center=False, scale=False),
    "batch_renorm": lambda: L.BatchNormalization(renorm=True, renorm_clipping={"rmax": 1.1}),
    "half_layer": lambda: L.LayerNormalization(dtype="mixed_float16"),
    "half_group": lambda: L.GroupNormalization(2, dtype="mixed_bfloat16"),
    "half_batch": lambda: L.BatchNormalization(dtype="mixed_float16"),
    "resizing": lambda: L.Resizing(5, 3),
    "resizing_crop": lambda: L.Resizing(5, 3, "nearest", crop_to_aspect_ratio=True),
    "resizing_pad": lambda: L.Resizing(3, 9, antialias=True, pad_to_aspect_ratio=True),
    "up_sampling": lambda: L.UpSampling2D((2, 3), interpolation="bicubic"),
    "area": lambda: Lambda(lambda x: tf.image.resize(x, (4, 4), "area")),
    "aspect": lambda: Lambda(lambda x: tf.image.resize(x, (5, 3), preserve_aspect_ratio=True)),
    "size_read": lambda: Lambda(lambda x: tf.image.resize(x, [tf.shape(x)[1] - 1, 3])),
    "one_image": lambda: Lambda(lambda x: tf.map_fn(lambda i: tf.image.resize(i, (5, 3)), x)),
    "softsign": lambda: L.Activation("softsign"),
    "response": lambda: Lambda(lambda x: tf.nn.lrn(x, 1, 2.0, 0.5, 0.7)),
    "distributed": lambda: L.TimeDistributed(L.LayerNormalization()),
}
EQUAL_TO_THE_BIT = ("layer", "group", "instance", "batch", "half", "distributed")


def images(dtype="float32"):
    return np.random.default_rng(0).normal(0.3, 1.0, (2, *SHAPE)).astype(dtype)


def randomise(network):
    random = np.random.default_rng(1)
    network.set_weights([random.uniform(0.3, 0.9, w.shape) for w in network.get_weights()])
    return network


def checked(network, inputs=None, **options):
    report = second_order.make_safe(network, inputs, **options)
    assert report.remaining == ()
    assert second_order.check(network, inputs, by_xla=options.get("xla")).findings == ()
    return report


SLOW = ("layer_", "half_", "group_", "batch_first", "resizing_pad", "aspect", "one", "distr")


def slow_ones(cases, *starts):
    """The cases, of which those that begin with one of `starts` are marked slow."""
    marks = {True: [pytest.mark.slow], False: []}
    return [pytest.param(case, marks=marks[case.startswith(starts)]) for case in cases]


@pytest.mark.parametrize("case", slow_ones(OPTIONS, *SLOW))
def test_outputs_and_statistics_stay(case):
    network = randomise(network_with(OPTIONS[case](), dense=False))
    weights, x = network.get_weights(), images()

    def results():
        network.set_weights(weights)
        outputs = network(x), network(x, training=True)
        return [np.asarray(t, "float64") for t in (*outputs, *network.get_weights())]

    before, variables = results(), [id(v) for v in network.variables]
    assert len(checked(network).changed) == 1
    after = results()
    tolerance = 0 if case.startswith(EQUAL_TO_THE_BIT) else 1e-6
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance)
    assert [id(v) for v in network.variables] == variables


def test_masks_reach_the_layers():
    network = network_with(L.Masking(), L.BatchNormalization(), L.LSTM(3), shape=(6, 2))
    x = np.where(np.arange(6)[:, None] < 4, 1.0 + np.random.default_rng(0).random((2, 6, 2)), 0)
    before = network(x, training=True)
    checked(network)
    np.testing.assert_array_equal(network(x, training=True), before)


class Norm(L.LayerNormalization):
    """Somebody's subclass that builds on Keras's call."""

    def call(self, inputs):
        return 2.0 * super().call(inputs)


class HandWritten(L.LayerNormalization):
    """Somebody's subclass with a call of its own."""

    def call(self, inputs):
        mean, variance = keras.ops.moments(inputs, axes=[-1], keepdims=True)
        return (inputs - mean) / keras.ops.sqrt(variance + 0.1)


class Block(L.Layer):
    """Layers in containers, one made by `build`, and operations in the call itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [{"norm": Norm()}, (L.GroupNormalization(2), HandWritten())]

    def build(self, shape):
        self.late = L.LayerNormalization(name="late")
        self.late.build(shape)

    def call(self, x):
        x = self.late(self.parts[0]["norm"](x))
        for part in self.parts[1]:
            x = part(x)
        _, variance = tf.nn.moments(x, [1, 2], keepdims=True)
        return tf.image.resize(x * variance, (4, 5), "bicubic")


class Whole(keras.Model):
    """A subclassed model that does not define its inputs."""

    def __init__(self):
        super().__init__(name="whole")
        self.first = L.Conv2D(4, 3, padding="same", activation="softplus")
        self.block, self.norm = Block(name="block"), L.BatchNormalization()
        self.head = L.Dense(2)

    def call(self, x, training=False):
        x = self.norm(self.block(self.first(x)), training=training)
        x = keras.ops.image.resize(x, (3, 3), antialias=True)
        return self.head(keras.ops.reshape(x, (-1, 36)))


def functional(norm=L.LayerNormalization):
    """Two levels, a shared layer, and bare operations."""
    dtype = keras.config.dtype_policy().compute_dtype
    inner = keras.Input(SHAPE, dtype=dtype)
    shared = norm()
    y = keras.ops.layer_normalization(shared(inner), axis=-1)
    part = keras.Model(inner, shared(keras.ops.tanh(y)), name="part")
    x = keras.Input(SHAPE, dtype=dtype)
    y = part(L.Conv2D(4, 3, padding="same", activation="softplus")(x))
    y = keras.ops.image.resize(y, (5, 5))
    mean, variance = keras.ops.moments(y, [1, 2], keepdims=True)
    y = keras.ops.softsign(keras.ops.square((y - mean) * variance) + 0.1)  # smooth
    return keras.Model(x, L.Dense(2)(L.Flatten()(y)))


@pytest.mark.long
@pytest.mark.parametrize("make", [Whole, pytest.param(functional, marks=pytest.mark.slow)])
def test_the_penalty_s_gradient_is_that_of_differences(make):
    keras.config.set_dtype_policy("float64")
    try:
        network = make()
        x, y = tf.constant(images("float64")[:2]), tf.constant([0, 1])
        network(x)
        randomise(network)
        report = second_order.make_safe(network, x)
        error = directional_error(network, x, y)
    finally:
        keras.config.set_dtype_policy("float32")
    assert report.remaining == ()
    assert error < 1e-7


def directional_error(network, x, y):
    """Relative error of a penalty's derivative along a random direction in the weights."""
    random, variables, penalty = (
        np.random.default_rng(2),
        network.trainable_variables,
        GradientNorm(),
    )
    directions = [random.normal(size=v.shape) for v in variables]
    start = [v.numpy() for v in variables]

    @tf.function
    def value():
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(penalty.per_example(network, x, y))
        return total, tape.gradient(
            total, [v.value for v in variables], unconnected_gradients="zero"
        )

    def at(step):
        for v, origin, direction in zip(variables, start, directions, strict=True):
            v.assign(origin + step * direction)
        return value()[0].numpy()

    exact = sum(np.sum(g * d) for g, d in zip(value()[1], directions, strict=True))
    h = 1e-4
    numerical = (at(-2 * h) - 8 * at(-h) + 8 * at(h) - at(2 * h)) / (12 * h)
    return abs(exact - numerical) / abs(numerical)
