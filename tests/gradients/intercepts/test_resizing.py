"""Resizing inside a layer's call, wherever it stands, has no intercept and loses none."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tfgrad.internal.derivatives import additional_derivatives

L = keras.layers
SHAPE, SIZE = (8, 8, 2), (7, 6)


def _loop(x):
    def body(i, y):
        return i + 1, tf.image.resize(y, SIZE, "bicubic") * 1.1 + 0.1

    return tf.while_loop(lambda i, y: i < 3, body, [0, tf.image.resize(x, SIZE)])[1]


def _branch(x):
    return tf.cond(
        tf.reduce_sum(x) > 0,
        lambda: tf.image.resize(x, SIZE),
        lambda: 2.0 * tf.image.resize(x, SIZE, "bicubic") + 0.1,
    )


def _crop(x, boxes=None):
    count = tf.shape(x)[0]
    if boxes is None:
        boxes = tf.tile([[0.1, 0.1, 0.8, 1.2]], [count, 1])
    return tf.image.crop_and_resize(x, boxes, tf.range(count), SIZE, extrapolation_value=0.5)


RESIZED = {
    **{
        method: lambda x, method=method: tf.image.resize(x, SIZE, method)
        for method in ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5", "gaussian")
    },
    "mitchell": lambda x: tf.image.resize(x, SIZE, "mitchellcubic"),
    "area": lambda x: tf.image.resize(x, SIZE, "area"),
    "antialiased": lambda x: keras.ops.image.resize(x, SIZE, antialias=True),
    "raw": lambda x: tf.raw_ops.ResizeBilinear(images=x, size=SIZE, align_corners=True),
    "tf.function": tf.function(lambda x: tf.image.resize(x, SIZE)),
    "layers": lambda x: L.Resizing(*SIZE)(L.UpSampling2D(interpolation="bilinear")(x)),
    "loop": _loop,
    "branch": _branch,
    "crop": _crop,
    "boxes of the network": lambda x: _crop(x, tf.sigmoid(x[:, 0, :4, 0])),
    "both": lambda x: tf.image.resize(x, SIZE) * tf.nn.softsign(tf.image.resize(x, SIZE, "area")),
}
QUICK = ("bilinear", "area", "antialiased", "tf.function", "loop", "boxes of the network", "both")
CASES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RESIZED]


class Pyramid(L.Layer):
    """Resizing between two convolutions, with arithmetic on either side."""

    def __init__(self, resize, **kwargs):
        super().__init__(**kwargs)
        self.resize = resize
        self.before = L.Conv2D(2, 3, padding="same", activation="tanh", name="before")
        self.after = L.Conv2D(2, 2, activation="gelu", name="after")

    def build(self, shape):
        self.before.build(shape), self.after.build((None, *SIZE, 2))

    def call(self, x):
        return self.after(self.resize(1.5 * self.before(x) + 0.2))


def _network(name):
    inputs = keras.Input(SHAPE)
    h = Pyramid(RESIZED[name], name="pyramid")(inputs)
    model = keras.Model(inputs, L.Dense(3, name="head")(L.Flatten()(h)))
    random = np.random.default_rng(3)
    for v in model.weights:
        v.assign(random.choice([-1, 1], size=v.shape) * random.uniform(0.2, 0.7, size=v.shape))
    return model, tf.constant(random.normal(size=(2, *SHAPE)), tf.float32)


@pytest.mark.long
@pytest.mark.sample(3)
@pytest.mark.parametrize("name", CASES)
def test_the_terms_add_up_and_each_bias_has_its_own(name):
    model, x = _network(name)
    full = tfgrad.full_gradients(model, x, 1)
    assert np.max(full.completeness_error()) < 1e-5
    kinds = {t.name: t.kind for t in full.intercepts}
    assert kinds["before"] == kinds["after"] == "affine"
    for layer in (model.get_layer("pyramid").before, model.get_layer("pyramid").after):
        for b in range(2):
            with additional_derivatives(), tf.GradientTape() as tape:
                logit = model(x[b : b + 1])[0, 1]
                share = tape.gradient(logit, layer.bias.value) * layer.bias
            entry = tf.reduce_sum(full.bias_gradients[layer.name][b])
            np.testing.assert_allclose(entry, tf.reduce_sum(share), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["area", pytest.param("crop", marks=pytest.mark.slow)])
def test_in_a_graph_as_eagerly(name):
    model, x = _network(name)
    eager = tfgrad.full_gradients(model, x, 1)
    traced = tf.function(
        lambda x: tfgrad.full_gradients(model, x, 1).bias_gradients, autograph=False
    )(x)
    assert list(traced) == list(eager.bias_gradients)
    for key, value in eager.bias_gradients.items():
        np.testing.assert_allclose(traced[key], value, rtol=1e-3, atol=2e-5)


def test_resizing_alone_has_no_entry():
    """What follows is known without a term, so that a map shows no rounding."""

    class Only(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.conv = L.Conv2D(2, 3, name="conv")

        def build(self, shape):
            self.conv.build((None, *SIZE, 2))

        def call(self, x):
            return self.conv(tf.image.resize(x, SIZE, "bicubic") + tf.image.resize(x, SIZE))

    model = keras.Sequential([keras.Input(SHAPE), Only(), L.Flatten(), L.Dense(2, name="head")])
    full = tfgrad.full_gradients(model, tf.random.normal([2, *SHAPE], seed=1))
    assert list(full.bias_gradients) == ["conv", "head"]
    assert np.max(full.completeness_error()) < 1e-5


def test_an_area_in_float64(float64):
    """TensorFlow has neither a first derivative of it nor a float64 kernel."""
    model = keras.Sequential(
        [keras.Input(SHAPE), L.Lambda(lambda x: tf.image.resize(x, (3, 3), "area"), name="area")]
    )
    model = keras.Sequential([model, L.Flatten(), L.Dense(2)])
    x = tf.random.normal([2, *SHAPE], dtype=tf.float64, seed=1)
    full = tfgrad.full_gradients(model, x, 0)
    assert np.max(full.completeness_error()) < 1e-6
    step = tf.random.normal(x.shape, dtype=tf.float64, seed=2)
    change = (model(x + step)[:, 0] - model(x - step)[:, 0]) / 2
    np.testing.assert_allclose(
        tf.reduce_sum(full.input_gradient * step, (1, 2, 3)), change, rtol=1e-5
    )


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["antialiased", "area"])
def test_a_map_through_resizing(name):
    """Its places are measured in float64, in which TensorFlow differentiates neither."""
    model, x = _network(name)
    maps = tfgrad.saliency.FullGrad(model)(x, 1)
    assert maps.shape == (2, 8, 8) and np.isfinite(maps).all() and np.ptp(maps) > 0
