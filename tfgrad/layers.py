"""Keras layers whose second derivative is right, and noise on biases.

A gradient penalty differentiates twice, and some Keras layers are right only once: their moments
stop the gradient of the mean (`tf.nn.moments`), or the gradient of their kernel has none itself
(`ResizeBilinearGrad`). The layers below are subclasses with the same name, arguments, weights and
outputs, so weights files and architectures carry over; only the arithmetic differs.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfgrad.errors import ArgumentError
from tfgrad.internal import keras_private
from tfgrad.internal.precision import promoted_to_float32

_serializable = keras.saving.register_keras_serializable("tfgrad")


@_serializable
class Softplus(keras.layers.Layer):
    """Smooth rectifier: φ(z) = log(1 + exp(βz)) / β.

    Its curvature φ″(z) = β s(βz) (1 − s(βz)), s the logistic function, is what score matching
    sees; that of ReLU is zero almost everywhere. φ tends to ReLU as β grows.

    The result is computed in float32 or wider and cast to the compute dtype: in float16 βz
    overflows long before z does.

    Args:
        beta: β > 0. Chapter 5 uses 10.
        **kwargs: as for every Keras layer.

    Input and output shape: any, the same.

    Raises:
        ArgumentError: β is not a positive finite number.

    Source: Srinivas, *Gradient-based Methods for Deep Model Interpretability*, §5.5; Dombrowski et
    al. 2019 for β.
    """

    def __init__(self, beta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(beta, bool) or not isinstance(beta, (int, float, np.number)):
            raise ArgumentError(f"beta must be a positive number, not {beta!r}; try beta=10.0")
        if not 0.0 < float(beta) < float("inf"):
            raise ArgumentError(f"beta must be positive and finite, not {beta!r}; try beta=10.0")
        self.beta = float(beta)
        self.supports_masking = True
        keras_private.build_at_once(self)

    def call(self, inputs: Any) -> Any:
        """φ(inputs), in the compute dtype."""
        z = promoted_to_float32(inputs)
        return ops.cast(ops.softplus(self.beta * z) / self.beta, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "beta": self.beta}


@_serializable
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization`, right to second order.

    y = γ (x − μ) / √(v + ε) + β, μ = mean(x), v = mean((x − μ)²) over `axis`, with the gradient of
    μ inside v kept: stopping it leaves ∂y/∂x right, because Σ(x − μ) = 0, but not ∂²y/∂x².

    Arguments, weights and shapes are Keras's; statistics are float32 or wider.

    Source: Ba et al. 2016.
    """

    def call(self, inputs: Any) -> Any:
        """Normalise over `axis`."""
        if self.rms_scaling:  # Keras takes a variance here that is already right
            return super().call(inputs)
        x = promoted_to_float32(inputs)
        mean, variance = _moments(x, self.axis, keepdims=True)
        shape = [1] * len(x.shape)
        for axis in self.axis:
            shape[axis] = x.shape[axis]
        scale = ops.rsqrt(variance + self.epsilon)
        if self.gamma is not None:
            scale = scale * ops.reshape(ops.cast(self.gamma, x.dtype), shape)
        y = (x - mean) * scale
        if self.beta is not None:
            y = y + ops.reshape(ops.cast(self.beta, x.dtype), shape)
        return ops.cast(y, self.compute_dtype)


@_serializable
class GroupNormalization(keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization`, right to second order.

    y = γ (x − μ) / √(v + ε) + β with μ and v over the positions and the channels of one group of
    one example, the gradient of μ inside v kept. `groups=-1` is instance normalisation.

    Arguments, weights and shapes are Keras's; statistics are float32 or wider.

    Source: Wu and He 2018.
    """

    def _apply_normalization(self, reshaped_inputs: Any, input_shape: Any) -> Any:
        x = promoted_to_float32(reshaped_inputs)
        axes = list(range(1, len(x.shape)))
        axes.pop(-2 if self.axis == -1 else self.axis - 1)
        mean, variance = _moments(x, axes, keepdims=True)
        shape = keras_private.broadcast_shape(self, input_shape)
        scale = ops.rsqrt(variance + self.epsilon)
        if self.scale:
            scale = scale * ops.reshape(ops.cast(self.gamma, x.dtype), shape)
        y = (x - mean) * scale
        if self.center:
            y = y + ops.reshape(ops.cast(self.beta, x.dtype), shape)
        return ops.cast(y, reshaped_inputs.dtype)


@_serializable
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, right to second order in training mode too.

    y = γ (x − μ) / √(v + ε) + β. In training μ and v are those of the batch, the gradient of μ
    inside v kept, and the moving statistics move as Keras moves them, masks and renormalisation
    included; in inference they are the moving ones. On several replicas each
    normalises by its own examples and, unlike Keras's, the moving statistics are their mean.

    Arguments, weights and shapes are Keras's; statistics are float32 or wider.

    Raises:
        ArgumentError: `synchronized=True`.

    Source: Ioffe and Szegedy 2015.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.synchronized:
            raise ArgumentError(
                f"layer {self.name!r}: synchronized=True is not supported; use synchronized=False "
                "(each replica normalises by its own batch) or tfgrad.layers.GroupNormalization"
            )

    def add_weight(self, *args: Any, trainable: bool = True, **kwargs: Any) -> Any:
        """Create a weight; the moving ones are averaged over replicas, where Keras's differ."""
        if not trainable:
            kwargs["aggregation"] = "mean"
        return super().add_weight(*args, trainable=trainable, **kwargs)

    def _moments(self, inputs: Any, mask: Any) -> Any:
        if mask is not None:  # Keras writes these out, nothing is stopped
            return super()._moments(inputs, mask)
        return _moments(inputs, keras_private.reduction_axes(self), keepdims=False)


@_serializable
class Resizing(keras.layers.Resizing):
    """`keras.layers.Resizing`, right to second order.

    y = M_h x M_wᵀ for every image and channel: resizing is linear and separable, so it is two
    products with constant matrices, and a product has every derivative. The matrices are TF's own,
    read off by resizing the identity; hence any `interpolation`, with or without `antialias`.

    Arguments are Keras's. Values agree with Keras's to float32 rounding, unless the device rounds
    matrix products to TF32, as GPUs do by default. Integer images take Keras's way: they have no
    gradient.

    Shape: `[batch, height, width, channels]`, or as `data_format` says; unbatched images too.
    """

    def _transform_images(self, images: Any, transformation: Any, interpolation: str) -> Any:
        if not images.dtype.is_floating:
            return super()._transform_images(images, transformation, interpolation)
        x = promoted_to_float32(images)
        if self.crop_to_aspect_ratio:
            x = self._crop(x)
        elif self.pad_to_aspect_ratio:
            x = self._pad(x)
        size = (self.height, self.width)
        for axis, length in zip((self.height_axis, self.width_axis), size, strict=True):
            x = _resize_axis(x, len(x.shape) + axis, length, interpolation, self.antialias)
        if images.dtype == tf.float16:  # bicubic overshoots
            return tf.saturate_cast(x, images.dtype)
        return tf.cast(x, images.dtype)

    def _crop(self, x: Any) -> Any:
        """The largest centred window with the target's aspect ratio, as Keras rounds it."""
        height, width = _length(x, self.height_axis), _length(x, self.width_axis)
        rows = _clip_length(_scaled(width, self.height, self.width), 1, height)
        columns = _clip_length(_scaled(height, self.width, self.height), 1, width)
        begin: list[Any] = [0] * len(x.shape)
        extent: list[Any] = [_length(x, axis) for axis in range(len(x.shape))]
        begin[self.height_axis], extent[self.height_axis] = (height - rows) // 2, rows
        begin[self.width_axis], extent[self.width_axis] = (width - columns) // 2, columns
        return tf.slice(x, begin, extent)

    def _pad(self, x: Any) -> Any:
        """Even borders that give the target's aspect ratio, as Keras rounds them."""
        height, width = _length(x, self.height_axis), _length(x, self.width_axis)
        rows = _clip_length(_scaled(width, self.height, self.width), height, None)
        columns = _clip_length(_scaled(height, self.width, self.height), width, None)
        border: list[Any] = [[0, 0] for _ in x.shape]
        border[self.height_axis] = [(rows - height) // 2] * 2
        border[self.width_axis] = [(columns - width) // 2] * 2
        return tf.pad(x, border, constant_values=self.fill_value)


@_serializable
class UpSampling2D(keras.layers.UpSampling2D):
    """`keras.layers.UpSampling2D`, right to second order for every interpolation.

    y = M_h x M_wᵀ with constant matrices (see `Resizing`); `"nearest"` repeats rows and columns as
    Keras does.

    Arguments are Keras's. Shape: `[batch, height, width, channels]`, or as `data_format` says.
    """

    def call(self, inputs: Any) -> Any:
        """Enlarge height and width by the integers `size`."""
        if self.interpolation == "nearest":
            return super().call(inputs)
        x = promoted_to_float32(inputs)
        first = 2 if self.data_format == "channels_first" else 1
        for axis, factor in zip((first, first + 1), self.size, strict=True):
            x = _resize_axis(x, axis, _length(x, axis) * factor, self.interpolation)
        return ops.cast(x, self.compute_dtype)


@_serializable
class BiasNoise(keras.layers.Wrapper):
    """Multiplicative Gaussian noise on the bias of a dense or convolution layer, in training.

    z + b ⊙ φ, φ ~ N(0, σ²), for the layer's pre-activation z = w·x + b: every example and every
    position has a φ of its own. The layer's fused activation comes after the noise. In inference
    the layer is called as it is.

    To first order the expected squared error grows by σ² ‖b ⊙ ∇_b f‖² (Prop. 10), which
    `tfgrad.penalties.BiasGradientNorm` adds without drawing anything. The noise on *activations* of
    Eq. 4.1, z ⊙ ξ with ξ ~ N(1, σ²), is `keras.layers.GaussianDropout(σ² / (1 + σ²))`.

    Args:
        layer: a layer whose call ends in adding its `bias` and applying its `activation`, if it
            has one: dense, einsum-dense, every convolution.
        stddev: σ ≥ 0.
        seed: of the draws, an int; None draws one. As Dropout's, it starts anew in a loaded model.
        **kwargs: as for every Keras layer.

    Input and output shape: the layer's.

    Raises:
        ArgumentError: the layer has no bias (when it is built, at the latest), or σ is not a finite
            number from 0 up.

    Source: Srinivas, *Gradient-based Methods for Deep Model Interpretability*, §4.3, Prop. 10.
    """

    def __init__(self, layer: Any, stddev: float, seed: int | None = None, **kwargs: Any) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise ArgumentError(
                f"layer: got {type(layer).__name__}; expected a Keras layer with a bias, e.g. "
                "keras.layers.Conv2D(64, 3)."
            )
        super().__init__(layer, **kwargs)
        if isinstance(stddev, bool) or not isinstance(stddev, (int, float, np.number)):
            raise ArgumentError(f"stddev: got {stddev!r}; expected a number from 0 up.")
        if not 0.0 <= float(stddev) < float("inf"):
            raise ArgumentError(f"stddev: got {stddev!r}; expected a finite number from 0 up.")
        if layer.built or getattr(layer, "use_bias", None) is False:
            self._check_bias()
        self.stddev, self.seed = float(stddev), seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = layer.supports_masking

    def build(self, input_shape: Any = None) -> None:
        """Build the layer, unless it is built."""
        super().build(input_shape)
        self._check_bias()

    def call(self, inputs: Any, training: bool | None = False) -> Any:
        """The layer at `inputs`, its bias noisy in training."""
        if not training or not self.stddev:
            return self.layer(inputs)
        activation = getattr(self.layer, "activation", None)
        if activation is None:
            return self._with_noise(self.layer(inputs))
        return _twin(self.layer, activation=lambda z: activation(self._with_noise(z)))(inputs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The layer's mask."""
        return self.layer.compute_mask(inputs, previous_mask)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The layer's."""
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "stddev": self.stddev, "seed": self.seed}

    def _check_bias(self) -> None:
        if getattr(self.layer, "bias", None) is None:
            raise ArgumentError(
                f"layer: {self.layer.name!r} ({type(self.layer).__name__}) has no bias to put "
                "noise on; try use_bias=True, or keras.layers.GaussianDropout for activations."
            )

    def _with_noise(self, z: Any) -> Any:
        bias = ops.cast(self.layer.bias, z.dtype)
        if getattr(self.layer, "data_format", None) == "channels_first":
            bias = ops.reshape(bias, [-1] + [1] * (len(z.shape) - 2))
        shape = ops.shape(z)
        noise = keras.random.normal(shape, 0.0, self.stddev, z.dtype, self.seed_generator)
        return z + bias * noise


def _twin(layer: Any, **replaced: Any) -> Any:
    """The layer, its variables and its losses, with some attributes replaced.

    The layer itself does not change, so other threads do not notice.
    """
    twin = object.__new__(type(layer))
    twin.__dict__.update(layer.__dict__)
    twin.__dict__.update(replaced)
    return twin


def _moments(x: Any, axes: Any, keepdims: bool) -> tuple[Any, Any]:
    """Mean and variance over `axes`, both differentiable without end."""
    mean = ops.mean(x, axis=axes, keepdims=True)
    variance = ops.mean(ops.square(x - mean), axis=axes, keepdims=True)
    if not keepdims:
        mean, variance = ops.squeeze(mean, axis=axes), ops.squeeze(variance, axis=axes)
    return mean, variance


def _length(x: Any, axis: int) -> Any:
    """The static length of an axis where it is known, else the dynamic one."""
    return x.shape[axis] if x.shape[axis] is not None else tf.shape(x)[axis]


def _scaled(length: Any, numerator: int, denominator: int) -> Any:
    """⌊length · numerator / denominator⌋, in float32 as Keras computes it."""
    if isinstance(length, int):
        return int(np.float32(length * numerator) / np.float32(denominator))
    return tf.cast(tf.cast(length * numerator, tf.float32) / denominator, tf.int32)


def _clip_length(length: Any, low: Any, high: Any) -> Any:
    if all(isinstance(n, int) for n in (length, low, high) if n is not None):
        length = max(length, low)
        return length if high is None else min(length, high)
    length = tf.maximum(length, low)
    return length if high is None else tf.minimum(length, high)


def _resize_axis(x: Any, axis: int, length: Any, method: str, antialias: bool = False) -> Any:
    """Resize one axis of a floating tensor: a product with the matrix [length, old length]."""
    old = _length(x, axis)
    if isinstance(old, int) and isinstance(length, int):
        with tf.init_scope():  # a constant of the graph: XLA knows not every resize operation
            matrix = _resize_matrix(old, length, method, antialias).numpy()
    else:
        matrix = _resize_matrix(old, length, method, antialias)
    matrix = tf.cast(matrix, x.dtype)
    dimensions = [_length(x, a) for a in range(len(x.shape))]
    after = dimensions[axis + 1 :]
    if after:  # one product per leading index; no axis is transposed
        y = tf.matmul(matrix, tf.reshape(x, [-1, old, _product(after)]))
    else:
        y = tf.matmul(tf.reshape(x, [-1, old]), matrix, transpose_b=True)
    return tf.reshape(y, [*dimensions[:axis], length, *after])


def _resize_matrix(old: Any, length: Any, method: str, antialias: bool) -> Any:
    """TF's own answer to the unit vectors: row o holds the weights of output o."""
    identity = tf.eye(old)[:, tf.newaxis, :]  # one column, which keeps its length 1
    return tf.image.resize(identity, (length, 1), method=method, antialias=antialias)[:, 0, :]


def _product(lengths: list[Any]) -> Any:
    product: Any = 1
    for length in lengths:
        product = product * length
    return product
