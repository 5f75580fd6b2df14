"""Networks with random weights: all of keras.applications, and one of each kind in Keras.

Biases and batch-norm statistics are random, too: newly built networks have biases of zero, which
would hide what a decomposition misses.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import models
from tfgrad.layers import Softplus
from tfgrad.loading import applications

L = keras.layers
Build = Callable[[], keras.Model]


def application(name: str, side: int, classes: int = 1000) -> keras.Model:
    """A keras.applications architecture with random weights that returns logits."""
    return applications.builder(name)(
        weights=None, classifier_activation=None, input_shape=(side, side, 3), classes=classes
    )


def randomised(network: keras.Model, seed: int = 0) -> keras.Model:
    """The network with random biases, scales and batch-norm statistics.

    Kernels keep their initial values. Biases, β and moving means are N(0, 0.1²), moving variances
    uniform in [0.5, 1.5], γ in [0.4, 1]: with γ around 1 the gradients of the deepest EfficientNets
    explode, which those of a trained network do not, and the logit is the small difference of terms
    1e11 times its size. ConvNeXt's layer scales, which start at 1e-6, are not changed.
    """
    random = np.random.default_rng(seed)
    for variable in network.weights:
        last = variable.path.rpartition("/")[2]
        if last in ("bias", "beta", "moving_mean"):
            variable.assign(random.normal(size=variable.shape, scale=0.1))
        elif last == "gamma" and "layer_scale" not in variable.path:
            variable.assign(random.uniform(0.4, 1.0, size=variable.shape))
        elif last == "moving_variance":
            variable.assign(random.uniform(0.5, 1.5, size=variable.shape))
    return network


def vgg16_bn(side: int = 224, classes: int = 1000) -> keras.Model:
    """VGG-16 with batch normalisation, its dense layers replaced by global average pooling."""
    x = inputs = keras.Input((side, side, 3))
    for channels, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            x = L.Conv2D(channels, 3, padding="same")(x)
            x = L.ReLU()(L.BatchNormalization()(x))
        x = L.MaxPooling2D()(x)
    return keras.Model(inputs, L.Dense(classes)(L.GlobalAveragePooling2D()(x)), name="vgg16_bn")


class ClassToken(keras.layers.Layer):
    """A learned token before the others, and learned positions: [B, n, d] → [B, n + 1, d]."""

    def build(self, shape: Any) -> None:
        """Create the token and the positions."""
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="random_normal")
        self.positions = self.add_weight(
            shape=(1, shape[1] + 1, shape[-1]), initializer="random_normal"
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Prepend the token by bare arithmetic, for which there is no closed form."""
        token = keras.ops.broadcast_to(self.token, (keras.ops.shape(x)[0], 1, x.shape[-1]))
        return keras.ops.concatenate([token, x], axis=1) + self.positions


def vit(
    side: int = 224, classes: int = 1000, *, patch: int = 16, width: int = 192, depth: int = 12
) -> keras.Model:
    """A vision transformer (ViT-Ti/16 by default) of Keras layers, heads of 64 channels."""
    inputs = keras.Input((side, side, 3))
    x = L.Conv2D(width, patch, strides=patch)(inputs)
    x = ClassToken()(L.Reshape((-1, width))(x))
    for _ in range(depth):
        y = L.LayerNormalization(epsilon=1e-6)(x)
        x = L.Add()([x, L.MultiHeadAttention(max(width // 64, 1), min(width, 64))(y, y)])
        y = L.Dense(4 * width, "gelu")(L.LayerNormalization(epsilon=1e-6)(x))
        x = L.Add()([x, L.Dense(width)(y)])
    x = L.LayerNormalization(epsilon=1e-6)(x)
    return keras.Model(inputs, L.Dense(classes)(x[:, 0]), name="vit")


def _small_vit() -> keras.Model:
    return vit(32, 10, patch=8, width=32, depth=2)


def _convnext_block() -> keras.Model:
    x = inputs = keras.Input((16, 16, 3))
    x = L.Conv2D(8, 2, strides=2)(x)
    y = L.Conv2D(8, 7, padding="same", groups=8)(x)
    y = L.LayerNormalization(epsilon=1e-6)(y)
    y = L.Dense(8)(L.Dense(32, "gelu")(y))
    x = L.Add()([x, y])
    return keras.Model(inputs, L.Dense(5)(L.GlobalAveragePooling2D()(x)))


def _recurrent(layer: type[keras.layers.Layer]) -> Build:
    def build() -> keras.Model:
        inputs = keras.Input((6, 4))
        x = layer(5, return_sequences=True)(inputs)
        return keras.Model(inputs, L.Dense(3)(layer(4)(x)))

    return build


def _bidirectional() -> keras.Model:
    inputs = keras.Input((6, 4))
    return keras.Model(inputs, L.Dense(3)(L.Bidirectional(L.GRU(4))(L.Masking()(inputs))))


def _layer_norm_gelu() -> keras.Model:
    return keras.Sequential(
        [keras.Input((12,)), L.Dense(16), L.LayerNormalization(), L.Activation("gelu"), L.Dense(3)]
    )


def _squeeze_excite() -> keras.Model:
    x = inputs = keras.Input((12, 12, 3))
    x = L.Activation("silu")(L.BatchNormalization()(L.Conv2D(8, 3, use_bias=False)(x)))
    gate = L.Conv2D(2, 1, activation="silu")(L.GlobalAveragePooling2D(keepdims=True)(x))
    x = L.Multiply()([x, L.Conv2D(8, 1, activation="sigmoid")(gate)])
    x = L.SeparableConv2D(6, 3)(L.DepthwiseConv2D(3)(x))
    x = L.Conv2DTranspose(4, 3, strides=2, activation="elu")(x)
    return keras.Model(inputs, L.Dense(3)(L.GlobalMaxPooling2D()(x)))


def _nested() -> keras.Model:
    return keras.Sequential([keras.Input((12, 12, 3)), _squeeze_excite(), L.Dense(4)])


@keras.saving.register_keras_serializable("tfgrad.apps")
class Subclassed(keras.Model):
    """Bare arithmetic between layers, a gate, and bilinear up-sampling."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = L.Conv2D(4, 3, padding="same", activation="softplus")
        self.norm, self.second = L.BatchNormalization(), L.Conv2D(4, 3, groups=2)
        self.up, self.head = L.UpSampling2D(interpolation="bilinear"), L.Dense(3)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """The logits, without a graph of layers."""
        h = self.first(x) + 0.5
        h = self.norm(h * tf.sigmoid(h))
        h = self.second(self.up(h + 1.0))
        return self.head(tf.reduce_mean(h * h, [1, 2]))


def _subclassed() -> keras.Model:
    network = Subclassed()
    network(tf.zeros([1, 8, 8, 3]))
    return network


def _shared() -> keras.Model:
    inputs, shared = keras.Input((8,)), L.Dense(8, "tanh")
    x = shared(shared(inputs)) + 1.0
    return keras.Model(inputs, L.Dense(3)(keras.ops.sigmoid(x) * x))


def _two_inputs() -> keras.Model:
    image, vector = keras.Input((8, 8, 1)), keras.Input((4,))
    x = L.Concatenate()([L.Flatten()(L.Conv2D(3, 3, activation="selu")(image)), vector])
    return keras.Model([image, vector], L.Dense(3)(L.Dense(6, "elu")(x)))


def _unused_branch() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, activation="relu", name="shared_stem")(inputs)
    flat = L.Flatten()(x)
    both = keras.Model(inputs, [L.Dense(3)(flat), L.Dense(7, "gelu")(flat)])
    return keras.Model(inputs, both(inputs)[0])


def _softplus(name: str) -> Build:
    return lambda: models.get(name, (32, 32, 3), 10, width=0.125, activation="softplus", beta=10.0)


def _norms() -> keras.Model:
    x = inputs = keras.Input((8, 8, 4))
    x = L.GroupNormalization(2)(L.Conv2D(4, 3)(x))
    x = Softplus(10.0)(L.RMSNormalization()(x))
    x = L.UnitNormalization()(L.PReLU()(x))
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))


# {kind: builder of one network}.
KINDS: dict[str, Build] = {
    "vision transformer": _small_vit,
    "ConvNeXt block": _convnext_block,
    "LSTM classifier": _recurrent(L.LSTM),
    "GRU classifier": _recurrent(L.GRU),
    "masked bidirectional GRU": _bidirectional,
    "layer norm and GELU": _layer_norm_gelu,
    "squeeze-and-excite, SiLU, transposed": _squeeze_excite,
    "group, RMS and unit norm": _norms,
    "nested": _nested,
    "subclassed, bare arithmetic": _subclassed,
    "shared layer, bare operations": _shared,
    "two inputs": _two_inputs,
    "unused branch": _unused_branch,
    "VGG-9, softplus beta 10": _softplus("vgg9"),
    "ResNet-9, softplus beta 10": _softplus("resnet9"),
}


def random_inputs(network: keras.Model, batch: int = 2, seed: int = 1) -> Any:
    """Normal inputs of the network's shapes; pixels in [0, 255] if it scales them itself."""
    random = np.random.default_rng(seed)
    if any(isinstance(layer, L.Rescaling | L.Normalization) for layer in network.layers):
        pixels = random.uniform(0, 255, size=(batch, *network.input_shape[1:]))
        return tf.constant(pixels, tf.float32)
    shapes = network.input_shape if getattr(network, "inputs", None) else (None, 8, 8, 3)

    def one(shape: Sequence[Any]) -> tf.Tensor:
        return tf.constant(random.normal(size=(batch, *shape[1:])), tf.float32)

    return [one(s) for s in shapes] if isinstance(shapes, list) else one(shapes)
