"""Keras layers with correct second derivatives, and noise on biases.

A gradient penalty differentiates twice. The second derivative of some Keras layers is wrong: their
moments stop the gradient of the mean (`tf.nn.moments`), or the gradient operation of their kernel
has no gradient itself (`ResizeBilinearGrad`). The layers below are subclasses with the same names,
arguments, weights and outputs, so weights files and architectures carry over.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfgrad.errors import ArgumentError
from tfgrad.internal import keras_private
from tfgrad.internal.arguments import number
from tfgrad.internal.precision import promoted_to_float32

_serializable = keras.saving.register_keras_serializable("tfgrad")


@_serializable
class Softplus(keras.layers.Layer):
    """Smooth rectifier: φ(z) = log(1 + exp(βz)) / β.

    Score matching needs its curvature φ″(z) = β s(βz) (1 − s(βz)), s the logistic function; that of
    ReLU is zero almost everywhere. φ tends to ReLU as β grows.

    The result is computed in float32 or wider and cast to the compute dtype, because βz overflows
    in float16 long before z does.

    Args:
        beta: β > 0. Chapter 5 uses 10.
        **kwargs: Arguments of every Keras layer.

    Shape: input and output have the same, arbitrary shape.

    Raises:
        ArgumentError: β is not a positive finite number.

    Source: Srinivas, *Gradient-based Methods for Deep Model Interpretability*, §5.5; Dombrowski et
    al. 2019 for β.
    """

    def __init__(self, beta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = number("beta", beta)
        self.supports_masking = True
        keras_private.build_at_once(self)

    def call(self, inputs: Any) -> Any:
        """φ(inputs) in the compute dtype."""
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
    """`keras.layers.LayerNormalization` with a correct second derivative.

    y = γ (x − μ) / √(v + ε) + β with μ = mean(x) and v = mean((x − μ)²) over `axis`. The gradient
    of μ inside v is kept. Keras stops it, which leaves ∂y/∂x correct because Σ(x − μ) = 0, but
    makes ∂²y/∂x² wrong.

    Arguments, weights and shapes are those of Keras; statistics are float32 or wider.

    Source: Ba et al. 2016.
    """

    def call(self, inputs: Any) -> Any:
        """Normalise over `axis`."""
        if self.rms_scaling:  # the variance that Keras uses here stops no gradient
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
    """`keras.layers.GroupNormalization` with a correct second derivative.

    y = γ (x − μ) / √(v + ε) + β with μ and v over the positions and the channels of one group of
    one example. The gradient of μ inside v is kept. `groups=-1` is instance normalisation.

    Arguments, weights and shapes are those of Keras; statistics are float32 or wider.

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
    """`keras.layers.BatchNormalization` with a correct second derivative, in training mode too.

    y = γ (x − μ) / √(v + ε) + β. In training mode μ and v are those of the batch, the gradient of μ
    inside v is kept, and the moving statistics are updated as in Keras, with masks and
    renormalisation; in inference mode μ and v are the moving statistics. With several replicas each
    normalises by its own examples; the moving statistics are the mean over the replicas, which they
    are not in Keras.

    Arguments, weights and shapes are those of Keras; statistics are float32 or wider.

    Raises:
        ArgumentError: `synchronized` is True.

    Source: Ioffe and Szegedy 2015.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.synchronized:
            raise ArgumentError(
                f"synchronized: got True for the layer {self.name!r}; expected False (each "
                "replica normalises by its own examples); try tfgrad.layers.GroupNormalization, "
                "which does not depend on the batch."
            )

    def add_weight(self, *args: Any, trainable: bool = True, **kwargs: Any) -> Any:
        """Create a weight; moving statistics are averaged over replicas, unlike in Keras."""
        if not trainable:
            kwargs["aggregation"] = "mean"
        return super().add_weight(*args, trainable=trainable, **kwargs)

    def _moments(self, inputs: Any, mask: Any) -> Any:
        if mask is not None:  # Keras computes these without tf.nn.moments
            return super()._moments(inputs, mask)
        return _moments(inputs, keras_private.reduction_axes(self), keepdims=False)


@_serializable
class Resizing(keras.layers.Resizing):
    """`keras.layers.Resizing` with a correct second derivative.

    y = M_h x M_wᵀ for every image and channel. Resizing is linear and separable, so it equals two
    products with constant matrices, and a product has derivatives of every order. The matrices come
    from TensorFlow, which resizes the identity; so every `interpolation` is supported, with or
    without `antialias`.

    Arguments are those of Keras. Values agree with Keras to float32 rounding, unless the device
    rounds matrix products to TF32, as GPUs do by default. Integer images have no gradient and are
    resized by Keras.

    Shape: `[batch, height, width, channels]`, or as `data_format` says; one image without the batch
    axis, too.
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
    """`keras.layers.UpSampling2D` with a correct second derivative for every interpolation.

    y = M_h x M_wᵀ with constant matrices (see `Resizing`); `"nearest"` repeats rows and columns as
    Keras does.

    Arguments are those of Keras.

    Shape: `[batch, height, width, channels]`, or as `data_format` says.
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
    """Multiplicative Gaussian noise on the bias of a dense or convolution layer, in training mode.

    z + b ⊙ φ with φ ~ N(0, σ²), for the layer's pre-activation z = w·x + b; φ is drawn
    independently for every example and every position. The layer's activation is applied after the
    noise. In inference mode the layer is called unchanged.

    To first order the expected squared error grows by σ² ‖b ⊙ ∇_b f‖² (Prop. 10), which
    `tfgrad.penalties.BiasGradientNorm` adds without sampling. The noise on *activations* of
    Eq. 4.1, z ⊙ ξ with ξ ~ N(1, σ²), is `keras.layers.GaussianDropout(σ² / (1 + σ²))`.

    Args:
        layer: A layer whose call ends in adding its `bias` and applying its `activation`, if it
            has one: dense, einsum-dense, every convolution.
        stddev: Standard deviation σ ≥ 0.
        seed: Integer seed of the noise; None draws one. As in Dropout, the sequence restarts in a
            loaded model.
        **kwargs: Arguments of every Keras layer.

    Shape: input and output shapes are those of the layer.

    Raises:
        ArgumentError: The layer has no bias (raised when it is built, at the latest), or σ is not a
            finite number ≥ 0.

    Source: Srinivas, *Gradient-based Methods for Deep Model Interpretability*, §4.3, Prop. 10.
    """

    def __init__(self, layer: Any, stddev: float, seed: int | None = None, **kwargs: Any) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise ArgumentError(
                f"layer: got {type(layer).__name__}; expected a Keras layer with a bias; try "
                "keras.layers.Conv2D(64, 3)."
            )
        super().__init__(layer, **kwargs)
        stddev = number("stddev", stddev, zero=True)
        if layer.built or getattr(layer, "use_bias", None) is False:
            self._check_bias()
        self.stddev, self.seed = stddev, seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = layer.supports_masking

    def build(self, input_shape: Any = None) -> None:
        """Build the layer if it is not built yet."""
        super().build(input_shape)
        self._check_bias()

    def call(self, inputs: Any, training: bool | None = False) -> Any:
        """The layer's output for `inputs`, with noise on its bias in training mode."""
        if not training or not self.stddev:
            return self.layer(inputs)
        activation = getattr(self.layer, "activation", None)
        if activation is None:
            return self._with_noise(self.layer(inputs))
        return _twin(self.layer, activation=lambda z: activation(self._with_noise(z)))(inputs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The mask that the layer computes."""
        return self.layer.compute_mask(inputs, previous_mask)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The layer's output shape."""
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "stddev": self.stddev, "seed": self.seed}

    def _check_bias(self) -> None:
        if getattr(self.layer, "bias", None) is None:
            raise ArgumentError(
                f"layer: got {self.layer.name!r} ({type(self.layer).__name__}), which has no bias; "
                "expected a layer with one; try use_bias=True, or keras.layers.GaussianDropout for "
                "noise on activations."
            )

    def _with_noise(self, z: Any) -> Any:
        bias = ops.cast(self.layer.bias, z.dtype)
        if getattr(self.layer, "data_format", None) == "channels_first":
            bias = ops.reshape(bias, [-1] + [1] * (len(z.shape) - 2))
        shape = ops.shape(z)
        noise = keras.random.normal(shape, 0.0, self.stddev, z.dtype, self.seed_generator)
        return z + bias * noise


def _twin(layer: Any, **replaced: Any) -> Any:
    """A copy of the layer that shares its variables and losses, with some attributes replaced.

    The layer itself does not change, which other threads may be calling.
    """
    twin = object.__new__(type(layer))
    twin.__dict__.update(layer.__dict__)
    twin.__dict__.update(replaced)
    return twin


def _moments(x: Any, axes: Any, keepdims: bool) -> tuple[Any, Any]:
    """Mean and variance over `axes`, both with derivatives of every order."""
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
        with tf.init_scope():  # a constant: XLA does not support every resize operation
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
    """TensorFlow's result for the unit vectors: row o holds the weights of output o."""
    identity = tf.eye(old)[:, tf.newaxis, :]  # one column, which keeps its length 1
    return tf.image.resize(identity, (length, 1), method=method, antialias=antialias)[:, 0, :]


def _product(lengths: list[Any]) -> Any:
    product: Any = 1
    for length in lengths:
        product = product * length
    return product
