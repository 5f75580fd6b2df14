"""Networks whose layers have biases in every place: in graphs, in code, shared, called twice."""

import keras
import numpy as np
import tensorflow as tf

import tfgrad

L = keras.layers


class Gated(L.Layer):
    """Arithmetic between two layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = L.Dense(4, name="first"), L.Dense(3, name="second")

    def call(self, x):
        h = self.first(x)
        return self.second(h * keras.ops.sigmoid(h))


class Residual(L.Layer):
    """Sums, means and scales, which have no intercept."""

    def __init__(self, width=3, **kwargs):
        super().__init__(**kwargs)
        self.first, self.norm = L.Dense(width, name="first"), L.BatchNormalization(name="norm")
        self.second, self.last = L.Dense(width, name="second"), L.Dense(width, name="last")

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        h = self.norm(x + self.scale * self.first(x))
        h = h + self.second(0.5 * h - x)
        return h + self.last(keras.ops.maximum(h, 0.0) + keras.ops.mean(x, -1, keepdims=True))


class Everything(L.Layer):
    """Arithmetic before every kind of call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = L.Conv2D(4, 3, padding="same", activation="silu", name="conv")
        self.depthwise = L.DepthwiseConv2D(3, padding="same", name="depthwise")
        self.separable = L.SeparableConv2D(4, 3, activation="tanh", name="separable")
        self.norm, self.act = L.BatchNormalization(name="norm"), L.Activation("gelu", name="act")
        self.transposed = L.Conv2DTranspose(3, 2, name="transposed")
        self.inner = keras.Sequential([L.Dense(3, name="in_graph"), L.ELU(name="elu")])

    def call(self, x):
        h = self.conv(x * x - 0.3)
        h = self.depthwise(keras.ops.exp(-h))
        h = self.norm(h * keras.ops.tanh(h))
        h = self.separable(h * keras.ops.sigmoid(h) + 0.1)
        h = self.act(h + 0.7)
        h = self.transposed(self.conv.activation(h))
        return self.inner(h * h)


class Stack(L.Layer):
    """A composite inside a composite, called after arithmetic, and one layer called twice."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.gated, self.twice = Gated(name="gated"), L.Dense(3, name="twice")

    def call(self, x):
        h = self.twice(self.gated(x * x))
        return self.twice(keras.ops.tanh(h) + 1.0)


class Attends(L.Layer):
    """A transformer's block of Keras's own layers, with a gated feed-forward part."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.attention, self.norm = kind(), L.LayerNormalization(epsilon=0.1, name="layer_norm")
        self.up, self.gate = L.Dense(4, name="up"), L.Dense(4, "silu", name="gate")
        self.down = L.Dense(2, name="down")

    def call(self, x):
        h = self.norm(x + self.attention(x, x))
        return h + self.down(self.up(h) * self.gate(h))


class Masked(L.Layer):
    """Attention by hand with scores of −∞."""

    def __init__(self, value=-np.inf, **kwargs):
        super().__init__(**kwargs)
        self.value = value
        self.query, self.key = L.Dense(2, name="query"), L.Dense(2, name="key")
        self.softmax, self.out = L.Softmax(name="softmax"), L.Dense(3, name="out")

    def call(self, x):
        scores = keras.ops.einsum("bid,bjd->bij", self.query(x), self.key(x))
        causal = keras.ops.tril(keras.ops.ones((x.shape[1], x.shape[1]), "bool"))
        scores = keras.ops.where(causal, scores, self.value)
        return self.out(keras.ops.matmul(self.softmax(scores), x))


class OwnDense(L.Layer):
    """A dense layer by hand, with a dense layer of Keras's after it."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3))
        self.bias = self.add_weight(shape=(3,))
        self.dense = L.Dense(2, name="inner")
        self.dense.build((None, 3))

    def call(self, x):
        return self.dense(keras.ops.matmul(x, self.kernel) + self.bias)


class Subclass(L.Dense):
    """A subclass whose call is not Keras's."""

    def call(self, x):
        return super().call(x) * 2.0 + 1.0


class Model(keras.Model):
    """A subclassed model with arithmetic."""

    def __init__(self):
        super().__init__()
        self.one, self.two = L.Dense(4, "softplus", name="one"), L.Dense(3, name="two")
        self.head = L.Dense(2, name="head")

    def call(self, x):
        h = self.one(x)
        return self.head(keras.ops.concatenate([h * h, self.two(h - 1.0)], -1))


def _model(shape, *layers):
    def make():
        inputs = h = keras.Input(shape)
        for layer in layers:
            h = layer()(h)
        return keras.Model(inputs, L.Dense(2, name="head")(L.Flatten()(h)))

    return make


def _shared():
    inputs, shared = keras.Input((3,)), L.Dense(3, "tanh", name="shared")
    inner = keras.Sequential([keras.Input((3,)), shared, L.BatchNormalization(name="norm")])
    return keras.Model(inputs, L.Dense(2, name="head")(inner(shared(inner(inputs)))))


def _subclassed():
    model = Model()
    model(np.zeros((1, 3)))
    return model


VECTOR, LINE, IMAGE = (3,), (4, 2), (5, 5, 2)
NETWORKS = {
    "arithmetic before a dense layer": lambda: keras.Sequential(
        [keras.Input(VECTOR), Gated(name="gated"), L.Dense(2, name="head")]
    ),
    "residual sums": lambda: keras.Sequential(
        [keras.Input(VECTOR), Residual(name="residual"), L.Dense(2, name="head")]
    ),
    "functional": _model(
        IMAGE,
        lambda: L.Conv2D(3, 2, activation="gelu"),
        lambda: tfgrad.layers.BatchNormalization(),
        lambda: L.DepthwiseConv2D(2, activation="softplus", depth_multiplier=2),
        lambda: L.SeparableConv2D(3, 2, activation="elu"),
        lambda: L.BatchNormalization(axis=1, center=False),
        lambda: L.EinsumDense("abcd,de->abce", (2, 2, 4), bias_axes="e", activation="silu"),
        lambda: L.Conv2DTranspose(2, 2),
    ),
    "arithmetic before everything": _model(IMAGE, lambda: Everything(name="everything")),
    "shared and nested": _shared,
    "composite in a composite": _model(VECTOR, lambda: Stack(name="stack")),
    "subclassed": _subclassed,
    "attention": _model(LINE, lambda: Attends(lambda: L.MultiHeadAttention(2, 2))),
    "grouped attention": _model(LINE, lambda: Attends(lambda: L.GroupQueryAttention(2, 2, 1))),
    "masked scores": _model(LINE, lambda: Masked(name="masked")),
    "recurrent": _model(LINE, lambda: L.LSTM(3, return_sequences=True), lambda: L.Conv1D(2, 2)),
    "wrappers": _model(
        LINE,
        lambda: L.Bidirectional(L.GRU(2, return_sequences=True)),
        lambda: L.TimeDistributed(L.Dense(3, "tanh")),
        lambda: L.SpectralNormalization(L.Dense(3, name="normalised")),
    ),
    "dense by hand": _model(VECTOR, OwnDense, lambda: Subclass(3, activation="tanh")),
}


def randomised(make):
    """A network with random weights, biases and statistics, and two inputs, in float64."""
    model = make()
    random = np.random.default_rng(3)
    for v in model.weights:
        if "seed" in v.path:
            continue
        sign = 1 if "variance" in v.path else random.choice([-1, 1], size=v.shape)
        v.assign(sign * random.uniform(0.3, 0.9, size=v.shape))
    shape = model.input_shape[1:] if hasattr(model, "input_shape") else VECTOR
    x = tf.constant(random.normal(size=(2, *shape)))
    return model, x
