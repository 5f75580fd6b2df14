"""A smooth rectifier."""

from typing import Any

import keras
from keras import ops

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
