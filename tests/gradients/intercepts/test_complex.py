"""Complex tensors between layers: spectra, complex weights, magnitudes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad

L = keras.layers


def spectrum(x):
    return tf.signal.fft(tf.complex(x, 0.5 * x))


class Does(L.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


class ComplexDense(L.Layer):
    """z ↦ z W + c, with complex W and c made of real weights."""

    def build(self, shape):
        size = (shape[-1], 5)
        self.parts = [self.add_weight(shape=size) for _ in range(2)]
        self.bias = [self.add_weight(shape=(5,)) for _ in range(2)]

    def call(self, z):
        kernel, bias = (
            tf.complex(*map(tf.convert_to_tensor, two)) for two in (self.parts, self.bias)
        )
        return tf.matmul(z, kernel) + bias


class Composite(L.Layer):
    """Complex layers, complex arithmetic and a real layer, inside a layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = ComplexDense(name="one"), ComplexDense(name="two")
        self.dense = L.Dense(3, name="dense")

    def build(self, shape):
        self.one.build(shape), self.two.build((None, 5)), self.dense.build((None, 5))

    def call(self, x):
        z = self.one(spectrum(x))
        z = self.two(z * tf.math.conj(z) * tf.constant(0.3 + 0.1j, z.dtype) + 1.0)
        return self.dense(tf.math.log(tf.abs(z) + 1e-3))


def _model(*layers, shape=(6,)):
    h = inputs = keras.Input(shape)
    for layer in layers:
        h = layer(h)
    model = keras.Model(inputs, L.Dense(2, name="head")(L.Flatten()(h)))
    random = np.random.default_rng(3)
    for v in model.weights:
        v.assign(random.choice([-1, 1], size=v.shape) * random.uniform(0.2, 0.7, size=v.shape))
    return model, tf.constant(random.normal(size=(2, *shape)))


NETWORKS = {
    "magnitude": lambda: _model(L.Dense(6), Does(spectrum), Does(tf.abs)),
    "short-time": lambda: _model(
        Does(lambda x: tf.signal.stft(x, 8, 4)),
        Does(tf.abs),
        Does(lambda z: tf.math.log(z + 1e-3)),
        L.Dense(3, "tanh"),
        shape=(16,),
    ),
    "complex layers": lambda: _model(
        Does(spectrum),
        ComplexDense(name="one"),
        Does(lambda z: z * tf.cast(tf.sigmoid(tf.math.real(z)), z.dtype)),
        ComplexDense(name="two"),
        Does(lambda z: tf.math.real(z * z) + tf.math.imag(z)),
    ),
    "composite": lambda: _model(Composite(name="composite")),
    "keras layers between": lambda: _model(
        Does(spectrum), L.Reshape((3, 2)), Does(lambda z: z + tf.math.conj(z) * z), Does(tf.abs)
    ),
    "keras.ops": lambda: _model(
        L.Lambda(lambda x: keras.ops.sum(keras.ops.stack(keras.ops.fft((x, x * x)), 0) ** 2, 0))
    ),
    "phase": lambda: _model(Does(tf.signal.rfft), Does(tf.math.angle)),
    "spectrogram": lambda: _model(
        L.STFTSpectrogram("log", frame_length=8, frame_step=4, fft_length=8), shape=(16, 1)
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_terms_add_up(name, float64):
    model, x = NETWORKS[name]()
    full = tfgrad.full_gradients(model, x, 1)
    # Keras computes the window of a spectrogram in float32.
    tolerance = 1e-6 if name == "spectrogram" else 1e-12
    assert np.max(full.completeness_error()) < tolerance
    assert all(t.dtype == tf.float64 for t in full.bias_gradients.values())


@pytest.mark.parametrize("name", ["complex layers", "composite"])
def test_the_entry_of_a_complex_bias_against_differences(name, float64):
    """Re(ḡ b) is the change of the logit along b."""
    model, x = NETWORKS[name]()
    full = tfgrad.full_gradients(model, x, 1)
    layers = model.get_layer("composite") if name == "composite" else None
    for key in ("one", "two"):
        layer = getattr(layers, key) if layers is not None else model.get_layer(key)
        values = [v.numpy() for v in layer.bias]

        def logit(scale, layer=layer, values=values):
            for v, value in zip(layer.bias, values, strict=True):
                v.assign(scale * value)
            return model(x)[:, 1].numpy()

        h = 1e-3
        change = (logit(1 - 2 * h) - 8 * logit(1 - h) + 8 * logit(1 + h) - logit(1 + 2 * h)) / (
            12 * h
        )
        logit(1.0)
        entry = np.asarray(full.bias_gradients[key]).sum(-1)
        if key == "one" or name == "complex layers":
            np.testing.assert_allclose(entry, change, rtol=1e-8)
        else:  # the entry holds the arithmetic before the layer, too
            assert np.max(np.abs(entry - change)) > 1e-3


def test_a_magnitude_at_zero(float64):
    model, _ = NETWORKS["magnitude"]()
    model.layers[1].bias.assign(np.zeros(6))
    x = tf.zeros([2, 6], tf.float64)
    full = tfgrad.full_gradients(model, x, 0)
    assert np.isfinite(full.input_gradient).all()
    np.testing.assert_allclose(full.total(), full.score, rtol=1e-12)


def test_a_map_through_a_spectrum():
    model, x = NETWORKS["short-time"]()
    maps = tf.function(
        lambda x: tfgrad.full_gradients(model, x, 0).bias_gradients, autograph=False
    )(tf.cast(x, tf.float32))
    eager = tfgrad.full_gradients(model, tf.cast(x, tf.float32), 0).bias_gradients
    for name, value in eager.items():
        np.testing.assert_allclose(maps[name], value, rtol=1e-3, atol=1e-4)
