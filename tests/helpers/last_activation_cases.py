"""Models that end in a softmax or a sigmoid, in every way that people write them."""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfgrad import layers

L = keras.layers
SHAPE = (6, 6, 2)


def images(count=3):
    return np.random.default_rng(1).normal(size=(count, *SHAPE)).astype("float32")


def softplus_features(image):
    return L.Flatten()(L.Conv2D(2, 3, activation="softplus")(image))


def functional(end):
    """A builder of a functional model whose end is a function of its features."""

    def build():
        image = keras.Input(SHAPE)
        return keras.Model(image, end(softplus_features(image)), name="whole")

    return build


class PlainSoftmax(L.Layer):
    def call(self, x):
        return tf.nn.softmax(x)


@keras.saving.register_keras_serializable("test_last_activation")
class OwnDense(L.Layer):
    def __init__(self, units, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.units, self.activation = units, keras.activations.get(activation)

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units))

    def call(self, x):
        return self.activation(ops.matmul(x, self.kernel))

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "units": self.units, "activation": activation}


@keras.saving.register_keras_serializable("test_last_activation")
class OwnHead(L.Layer):
    """A dense layer and a softmax with a temperature inside one call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(4)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return ops.softmax(self.dense(x) / 2.0)


@keras.saving.register_keras_serializable("test_last_activation")
class Subclassed(keras.Model):
    def __init__(self, end, units=4, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.end, self.units, self.named = end, units, activation
        self.conv, self.flat = L.Conv2D(2, 3, activation="softplus"), L.Flatten()
        self.gate = L.Dense(32, activation="sigmoid")
        self.dense, self.softmax = L.Dense(units, activation=activation), L.Softmax()

    def call(self, x):
        h = self.flat(self.conv(x))
        return ENDS[self.end](self, self.dense(h * self.gate(h)), h)

    def get_config(self):
        config = {"end": self.end, "units": self.units, "activation": self.named}
        return {**super().get_config(), **config}


ENDS = {
    "nothing": lambda model, z, h: z,
    "layer": lambda model, z, h: model.softmax(z),
    "keras operation": lambda model, z, h: ops.softmax(2.0 * z + 1.0),
    "tensorflow operation": lambda model, z, h: tf.nn.softmax(z),
    "tensorflow operation, reshaped": lambda model, z, h: tf.reshape(tf.nn.softmax(z), [-1, 4]),
    "cast": lambda model, z, h: tf.cast(z, "float32") * 1.0,
    "dict": lambda model, z, h: {"p": ops.softmax(z), "z": z, "b": ops.sigmoid(h[:, :1])},
}


def subclassed(end, units=4, activation=None):
    def build():
        model = Subclassed(end, units, activation, name="whole")
        model(np.zeros((2, *SHAPE), "float32"))
        return model

    return build


def nested():
    vector = keras.Input((32,))
    inner = keras.Model(vector, L.Softmax()(L.Dense(4)(vector)), name="inner")
    return functional(inner)()


def sequential_in_functional():
    stack = [keras.Input((32,)), L.Dense(5, "softplus"), L.Dense(4, activation="softmax")]
    return functional(keras.Sequential(stack))()


def functional_in_sequential():
    inner = functional(L.Dense(4, activation="softmax"))()
    return keras.Sequential([keras.Input(SHAPE), inner], name="whole")


def by_add():
    model = keras.Sequential(name="whole")
    for layer in (L.Conv2D(2, 3), L.Flatten(), L.Dense(4, activation="softmax")):
        model.add(layer)
    model(np.zeros((1, *SHAPE), "float32"))
    return model


def shared_with_an_earlier_call():
    """The last layer is also the one before, so that both it and its copy are in the graph."""
    dense = L.Dense(32, activation="softmax", name="twice")
    return functional(lambda h: dense(dense(h)))()


def quantised():
    model = functional(L.Dense(4, activation="softmax"))()
    model.layers[-1].quantize("int8")
    return model


def from_applications():
    return keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3), alpha=0.25)


def heads():
    image = keras.Input(SHAPE)
    h = softplus_features(image)
    outputs = {
        "p": L.Dense(4, activation="softmax", name="p")(h),
        "b": L.Dense(1, activation="sigmoid", name="b")(h),
        "z": L.Dense(2, name="z")(h),
    }
    return keras.Model(image, outputs, name="whole")


def _convolution():
    image = keras.Input(SHAPE)
    maps = L.Conv2D(4, 6, activation="softmax")(image)
    return keras.Model(image, L.Reshape((4,))(maps), name="whole")


softmax = functools.partial(ops.softmax, axis=-1)

EXCLUSIVE = {
    "fused": functional(lambda h: L.Dense(4, activation="softmax")(h)),
    "softmax layer": functional(lambda h: L.Softmax()(L.Dense(4)(h))),
    "softmax of axis 1": functional(lambda h: L.Softmax(axis=1)(L.Dense(4)(h))),
    "activation layer": functional(lambda h: L.Activation("softmax")(L.Dense(4)(h))),
    "operation": functional(lambda h: ops.softmax(L.Dense(4)(h))),
    "keras.activations": functional(lambda h: keras.activations.softmax(L.Dense(4)(h))),
    "tf.nn.softmax": functional(lambda h: L.Dense(4, activation=tf.nn.softmax)(h)),
    "partial": functional(lambda h: L.Dense(4, activation=softmax)(h)),
    "layer as activation": functional(lambda h: L.Dense(4, activation=L.Softmax())(h)),
    "lambda": functional(lambda h: L.Lambda(lambda z: tf.nn.softmax(z))(L.Dense(4)(h))),
    "own softmax": functional(lambda h: PlainSoftmax()(L.Dense(4)(h))),
    "own dense": functional(lambda h: OwnDense(4, "softmax")(h)),
    "own head": functional(lambda h: OwnHead()(h)),
    "einsum": functional(lambda h: L.EinsumDense("ab,bc->ac", 4, activation="softmax")(h)),
    "convolution": _convolution,
    "reshaped": functional(
        lambda h: L.Activation("linear")(
            L.Flatten()(L.Reshape((1, 4))(L.Dense(4, activation="softmax")(h)))
        )
    ),
    "cast": functional(lambda h: ops.cast(L.Dense(4, activation="softmax")(h), "float64")),
    "half, float32 softmax": functional(
        lambda h: L.Softmax(dtype="float32")(L.Dense(4, dtype="mixed_float16")(h))
    ),
    "spectral": functional(lambda h: L.SpectralNormalization(L.Dense(4, activation="softmax"))(h)),
    "bias noise": functional(lambda h: layers.BiasNoise(L.Dense(4, activation="softmax"), 0.1)(h)),
    "nested": nested,
    "sequential in functional": sequential_in_functional,
    "functional in sequential": functional_in_sequential,
    "built by add": by_add,
    "shared": shared_with_an_earlier_call,
    "quantised": quantised,
    "subclassed, fused": subclassed("nothing", activation="softmax"),
    "subclassed, layer": subclassed("layer"),
    "subclassed, operation": subclassed("keras operation"),
    "subclassed, tf.nn": subclassed("tensorflow operation"),
    "subclassed, tf.nn, reshaped": subclassed("tensorflow operation, reshaped"),
    "subclassed, cast": subclassed("cast", activation="softmax"),
}
SIGMOIDS = {
    "binary": (functional(lambda h: L.Dense(1, activation="sigmoid")(h)), "binary"),
    "binary operation": (functional(lambda h: ops.sigmoid(L.Dense(1)(h))), "binary"),
    "labels": (functional(lambda h: L.Dense(3, activation="sigmoid")(h)), "independent"),
    "subclassed": (subclassed("nothing", 1, "sigmoid"), "binary"),
}


def with_biases(model):
    """The model with random biases, which are zero in a new one."""
    random = np.random.default_rng(3)
    for weight in model.weights:
        if weight.path.endswith("bias"):
            weight.assign(random.normal(size=weight.shape))
    return model
