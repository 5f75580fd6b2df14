"""Layers of every kind, and the intercepts of a network by their definition."""

import keras
import numpy as np
import tensorflow as tf

from tfgrad import layers

L = keras.layers
ORDINARY = L.Layer.__call__, keras.Operation.__call__


class MyConv(L.Conv2D):
    """A subclass whose call is not Keras's."""

    def call(self, x):
        return super().call(x) * x[..., :1] + 1.0


class Block(L.Layer):
    """Layers inside a layer, one of them twice, with arithmetic between."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.twice, self.dense = L.Dense(3, "tanh", name="twice"), L.Dense(2, name="inner")

    def call(self, x):
        h = self.twice(x)
        return self.dense(self.twice(h * h + 0.5))


class Compiled(L.Layer):
    """A layer that brings a `tf.function` of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(3, "softplus")

    def build(self, shape):
        self.dense.build(shape)

    @tf.function
    def call(self, x):
        return self.dense(x) * tf.sin(x)


class AroundCompiled(L.Layer):
    """Arithmetic before a layer whose code calls a `tf.function`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.compiled = Compiled()

    def build(self, shape):
        self.compiled.build(shape)  # built in a call, it would keep its first weights

    def call(self, x):
        return self.compiled(x * x + 1.0)


def bare(function):
    """The operation that a function of `keras.ops` adds to a functional graph."""
    inputs = keras.Input(VECTOR)
    return keras.Model(inputs, function(inputs)).operations[-1]


IMAGE, LINE, VOLUME, VECTOR = (4, 4, 2), (5, 2), (3, 3, 3, 1), (3,)

# name: (input shapes, layer). Those with one entry of the output's own shape end with True.
LAYERS = {
    "dense": ([VECTOR], lambda: L.Dense(4), True),
    "dense tanh": ([VECTOR], lambda: L.Dense(4, "tanh"), False),
    "dense softmax": ([VECTOR], lambda: L.Dense(4, "softmax"), False),
    "dense lambda": ([VECTOR], lambda: L.Dense(4, lambda z: z * z), False),
    "dense layer": ([VECTOR], lambda: L.Dense(4, L.ReLU(max_value=0.5)), False),
    "einsum": ([LINE], lambda: L.EinsumDense("abc,cd->abd", (None, 2), bias_axes="d"), True),
    "conv 1": ([LINE], lambda: L.Conv1D(2, 3), True),
    "conv 2": ([IMAGE], lambda: L.Conv2D(2, 3, strides=2, padding="same"), True),
    "conv relu": ([IMAGE], lambda: L.Conv2D(2, 3, activation="relu"), True),
    "conv grouped": ([IMAGE], lambda: L.Conv2D(2, 3, groups=2), True),
    "conv dilated": ([IMAGE], lambda: L.Conv2D(2, 2, dilation_rate=2), True),
    "conv 3": ([VOLUME], lambda: L.Conv3D(2, 2), True),
    "depthwise": ([IMAGE], lambda: L.DepthwiseConv2D(3, depth_multiplier=2), True),
    "depthwise 1": ([LINE], lambda: L.DepthwiseConv1D(3, activation="gelu"), False),
    "separable": ([IMAGE], lambda: L.SeparableConv2D(2, 3), True),
    "transposed": ([IMAGE], lambda: L.Conv2DTranspose(1, 2, strides=2), True),
    "batch norm": ([IMAGE], lambda: L.BatchNormalization(), True),
    "batch norm, bare": ([VECTOR], lambda: L.BatchNormalization(center=False, scale=False), True),
    "batch norm, axis 1": ([IMAGE], lambda: L.BatchNormalization(axis=1), True),
    "batch norm, ours": ([IMAGE], lambda: layers.BatchNormalization(), True),
    "layer norm": ([LINE], lambda: L.LayerNormalization(epsilon=0.3), True),
    "layer norm, axes": ([IMAGE], lambda: L.LayerNormalization(axis=(1, 3), epsilon=0.3), True),
    "layer norm, ours": ([LINE], lambda: layers.LayerNormalization(epsilon=0.3), True),
    "layer norm, bare": ([LINE], lambda: L.LayerNormalization(center=False, scale=False), True),
    "rms norm": ([LINE], lambda: L.RMSNormalization(epsilon=0.3), True),
    "group norm": ([IMAGE], lambda: L.GroupNormalization(2), True),
    "unit norm": ([LINE], lambda: L.UnitNormalization(), True),
    **{
        f"activation {name}": ([VECTOR], lambda name=name: L.Activation(name), True)
        for name in (
            *("silu", "gelu", "sigmoid", "tanh", "softplus", "elu", "selu", "exponential"),
            *("hard_sigmoid", "hard_silu", "mish", "softsign", "log_sigmoid", "relu6", "celu"),
            *("squareplus", "hard_tanh", "tanh_shrink", "soft_shrink", "sparse_plus"),
            "sparse_sigmoid",
        )
    },
    **{
        f"operation {name}": ([VECTOR], lambda name=name: bare(getattr(keras.ops, name)), True)
        for name in (
            *("silu", "gelu", "sigmoid", "tanh", "softplus", "elu", "selu", "exp", "relu6"),
            *("hard_sigmoid", "hard_silu", "softsign", "log_sigmoid", "celu", "squareplus"),
            *("hard_tanh", "tanh_shrink", "soft_shrink", "sparse_plus", "sparse_sigmoid"),
        )
    },
    "operation relu, capped": (
        [VECTOR],
        lambda: bare(lambda x: keras.activations.relu(x, max_value=0.5)),
        True,
    ),
    "softplus, beta": ([VECTOR], lambda: layers.Softplus(10.0), True),
    "elu": ([VECTOR], lambda: L.ELU(), True),
    "relu, capped": ([VECTOR], lambda: L.ReLU(max_value=0.5), True),
    "threshold": ([VECTOR], lambda: bare(lambda x: keras.ops.threshold(x, 0.2, 0.5)), True),
    "softmax": ([LINE], lambda: L.Softmax(axis=1), True),
    "rescaling": ([VECTOR], lambda: L.Rescaling(2.0, offset=0.3), True),
    "normalization": (
        [VECTOR],
        lambda: L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0]),
        True,
    ),
    "multiply": ([VECTOR, VECTOR, VECTOR], lambda: L.Multiply(), True),
    "dot": ([LINE, LINE], lambda: L.Dot(axes=2), True),
    "dot, normalized": ([LINE, LINE], lambda: L.Dot(axes=2, normalize=True), True),
    "lambda": ([VECTOR], lambda: L.Lambda(lambda x: tf.cumsum(x, -1) ** 2 + 1.0), True),
    "attention": ([LINE], lambda: SelfAttention(), False),
    "lstm": ([LINE], lambda: L.LSTM(3), True),
    "gru, sequences": ([LINE], lambda: L.GRU(2, return_sequences=True), True),
    "simple rnn": ([LINE], lambda: L.SimpleRNN(3), True),
    "bidirectional": ([LINE], lambda: L.Bidirectional(L.LSTM(2)), False),
    "time distributed": (
        [(3, 4, 4, 1)],
        lambda: L.TimeDistributed(L.Conv2D(1, 3, activation="elu")),
        False,
    ),
    "conv lstm": ([(3, 4, 4, 1)], lambda: L.ConvLSTM2D(1, 3), True),
    "spectral norm": ([VECTOR], lambda: L.SpectralNormalization(L.Dense(3)), False),
    "subclass of conv": ([IMAGE], lambda: MyConv(1, 1), True),
    "block": ([VECTOR], lambda: Block(), False),
    "own tf.function": ([VECTOR], lambda: Compiled(), True),
    "own tf.function inside": ([VECTOR], lambda: AroundCompiled(), False),
}


class SelfAttention(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = L.MultiHeadAttention(2, 2)

    def call(self, x):
        return self.attention(x, x)


HOMOGENEOUS = {
    "relu": ([VECTOR], lambda: L.ReLU()),
    "leaky relu": ([VECTOR], lambda: L.LeakyReLU(0.1)),
    "prelu": ([VECTOR], lambda: L.PReLU("random_normal")),
    "activation relu": ([VECTOR], lambda: L.Activation("relu")),
    "relu, threshold": ([VECTOR], lambda: L.ReLU(threshold=0.2)),
    "hard shrink": ([VECTOR], lambda: L.Activation("hard_shrink")),
    "operation relu": ([VECTOR], lambda: bare(keras.activations.relu)),
    "operation hard shrink": ([VECTOR], lambda: bare(keras.ops.hard_shrink)),
    "threshold, zero below": ([VECTOR], lambda: bare(lambda x: keras.ops.threshold(x, 0.2, 0.0))),
    "max pool": ([IMAGE], lambda: L.MaxPooling2D()),
    "average pool": ([IMAGE], lambda: L.AveragePooling2D(2, padding="same")),
    "global pools": ([IMAGE], lambda: L.GlobalMaxPooling2D()),
    "dropout": ([VECTOR], lambda: L.Dropout(0.5)),
    "padding": ([IMAGE], lambda: L.ZeroPadding2D()),
    "cropping": ([IMAGE], lambda: L.Cropping2D(1)),
    "permute": ([LINE], lambda: L.Permute((2, 1))),
    "add": ([VECTOR, VECTOR], lambda: L.Add()),
    "average": ([VECTOR, VECTOR], lambda: L.Average()),
    "maximum": ([VECTOR, VECTOR], lambda: L.Maximum()),
    "concatenate": ([VECTOR, VECTOR], lambda: L.Concatenate()),
    "bilinear": ([IMAGE], lambda: L.UpSampling2D(interpolation="bilinear")),
    "resizing": ([IMAGE], lambda: L.Resizing(3, 5)),
    "convolution without bias": ([IMAGE], lambda: L.Conv2D(2, 3, use_bias=False)),
}


def network(shapes, layer):
    inputs = [keras.Input(shape) for shape in shapes]
    outputs = layer(inputs[0] if len(inputs) == 1 else inputs)
    # A slope of 1 changes nothing, and a softmax before it is not the model's last layer.
    model = keras.Model(inputs, L.LeakyReLU(1.0)(L.Flatten()(outputs)))
    random = np.random.default_rng(3)
    for v in model.weights:
        if "seed" not in v.path:
            v.assign(random.uniform(0.2, 1.0, size=v.shape) * random.choice([-1, 1], size=v.shape))
        if "variance" in v.path:
            v.assign(random.uniform(0.5, 1.5, size=v.shape))
    return model, [tf.constant(4 * random.normal(size=(2, *shape))) for shape in shapes]


def by_definition(model, x):
    """f(x) − J·x for every logit, [B, K], in reverse mode, one example at a time."""
    rows = []
    for b in range(2):
        one = [t[b : b + 1] for t in x]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(one)
            logits = tf.unstack(model(one, training=False)[0])
        values = []
        for logit in logits:
            gradients = tape.gradient(logit, one, unconnected_gradients="zero")
            values.append(
                logit - sum(tf.reduce_sum(g * t) for g, t in zip(gradients, one, strict=True))
            )
        rows.append(values)
    return np.array(rows)
