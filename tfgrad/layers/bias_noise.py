"""Multiplicative noise on the bias of a layer."""

from typing import Any

import keras
from keras import ops

from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import number

_serializable = keras.saving.register_keras_serializable("tfgrad")


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
