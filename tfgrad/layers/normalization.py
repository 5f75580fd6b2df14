"""Normalisation layers that keep the gradient of the mean inside the variance."""

from typing import Any

import keras
from keras import ops

from tfgrad.errors import ArgumentError
from tfgrad.internal import keras_private
from tfgrad.internal.precision import promoted_to_float32

_serializable = keras.saving.register_keras_serializable("tfgrad")


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
        mean, variance = moments(x, self.axis, keepdims=True)
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
        mean, variance = moments(x, axes, keepdims=True)
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
        return moments(inputs, keras_private.reduction_axes(self), keepdims=False)


def moments(x: Any, axes: Any, keepdims: bool) -> tuple[Any, Any]:
    """Mean and variance over `axes`, both with derivatives of every order."""
    mean = ops.mean(x, axis=axes, keepdims=True)
    variance = ops.mean(ops.square(x - mean), axis=axes, keepdims=True)
    if not keepdims:
        mean, variance = ops.squeeze(mean, axis=axes), ops.squeeze(variance, axis=axes)
    return mean, variance
