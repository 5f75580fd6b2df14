"""Networks whose gradients say whatever one likes, and whose predictions do not change.

Exact constructions (thesis §5.2, §5.7) around a trained network, with no training at all:

    mask = tfgrad.penalties.fooling.corner(32, 32, side=15)
    fooled = tfgrad.fooling.shared_shift(network, tfgrad.fooling.Picture(mask, scale=10.0))
    fooled.save("fooled.keras")

| construction      | what is added                         | what moves                          |
|-------------------|---------------------------------------|-------------------------------------|
| `shared_shift`    | g(x) to every logit                   | logit-gradients, by ∇g; no loss     |
| `per_class_shift` | g_i(x) to f_i, abs(g_i − g_j) ≤ ε     | losses by ε, their gradients freely |
| `rippled`         | ε sin(m·1ᵀx) to a loss                | the loss by ε, its gradient by mεD  |

Fine-tuning that does the same to the network's own weights is `tfgrad.penalties.SaliencyFooling`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients.model_checks import check_logits

_serializable = keras.saving.register_keras_serializable("tfgrad")


@_serializable
class Picture(keras.layers.Layer):
    """A linear form whose gradient is a picture: g_k(x) = scale_k Σ pattern ⊙ x.

    Args:
        pattern: [height, width] for all channels alike, the shape of one image, or a number: 1
            makes g(x) = scale 1ᵀx.
        scale: a number, for one output; or one for each of K outputs.
        **kwargs: as for every Keras layer. Computes in `keras.config.floatx()`, whatever the dtype
            policy: half precision would round large values to integers.

    Shape: images [batch, height, width, channels] to [batch, K], K = 1 for a single scale.

    Raises:
        ArgumentError: a value is not finite, or the pattern does not fit the images.
    """

    def __init__(self, pattern: Any, scale: Any = 1.0, **kwargs: Any) -> None:
        super().__init__(**{"dtype": keras.config.floatx(), **kwargs})
        self.pattern = _finite("pattern", pattern, ranks=(0, 2, 3, 4))
        self.scale = _finite("scale", scale, ranks=(0, 1))

    def build(self, input_shape: Any) -> None:
        """Check the pattern against the images."""
        self._laid_out(tuple(input_shape)[1:])
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """scale Σ pattern ⊙ x of each example, [batch, K]."""
        pattern = ops.convert_to_tensor(self._laid_out(inputs.shape[1:]), self.compute_dtype)
        scale = ops.convert_to_tensor(np.atleast_1d(self.scale), self.compute_dtype)
        # Keras casts float inputs alone.
        pixels = ops.cast(inputs, self.compute_dtype)
        products = ops.sum(pixels * pattern, axis=tuple(range(1, len(inputs.shape))))
        return ops.expand_dims(products, -1) * scale

    def compute_output_shape(self, input_shape: Any) -> Any:
        """[batch, K]."""
        return (input_shape[0], self.scale.size)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, arrays as nested lists."""
        numbers = {"pattern": self.pattern.tolist(), "scale": self.scale.tolist()}
        return {**super().get_config(), **numbers}

    def _laid_out(self, shape: tuple[int | None, ...]) -> np.ndarray:
        """The pattern with as many axes as an image."""
        pattern = self.pattern
        if pattern.ndim == 2 and len(shape) == 3:
            first = keras.config.image_data_format() == "channels_first"
            pattern = np.expand_dims(pattern, 0 if first else -1)
        sizes = zip(pattern.shape, shape, strict=False)
        fits = pattern.ndim in (0, len(shape)) and all(s is None or p in (1, s) for p, s in sizes)
        if not fits:
            raise ArgumentError(
                f"pattern: got shape {self.pattern.shape} for images {tuple(shape)}; expected "
                "[height, width], the shape of one image, or a number."
            )
        return pattern


@_serializable
class Ripple(keras.layers.Layer):
    """amplitude · sin(z): small values whatever z, and steep ones where z is steep.

    Args:
        amplitude: a finite number from 0 up.
        **kwargs: as for every Keras layer; the dtype as of `Picture`.

    Input and output shape: any, the same.

    Raises:
        ArgumentError: the amplitude is no such number.
    """

    def __init__(self, amplitude: float, **kwargs: Any) -> None:
        super().__init__(**{"dtype": keras.config.floatx(), **kwargs})
        self.amplitude = _size("amplitude", amplitude)

    def call(self, inputs: Any) -> Any:
        """amplitude · sin(inputs)."""
        return self.amplitude * ops.sin(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "amplitude": self.amplitude}


def shared_shift(network: keras.Model, g: Any) -> keras.Model:
    """Add one function of the image to all logits: f̃_i(x) = f_i(x) + g(x).

    Predictions, probabilities, losses and loss-gradients stay, as softmax does not see g;
    logit-gradients become ∇f_i + ∇g, which can be any field. A difference of two logits stays too.

    In floating point a logit is rounded to ε_mach abs(f_i + g), ε_mach = 6e-8 in float32, and so
    is the loss; a loss-gradient is off by about ε_mach ‖∇g‖. Keep abs(g) below 1e3 for losses right
    to 1e-4, or use float64. A confident example's loss-gradient is tiny: there the error is small
    beside the logit-gradients, not beside it.

    Args:
        network: a functional or Sequential model from one image to logits [batch, classes].
        g: a Keras layer or model from the same images to [batch, 1], for instance a `Picture`.

    Returns:
        A functional model from images to logits, which holds the network and shares its weights.

    Raises:
        ArgumentError: the network has no known input, or g is no such layer.
        ModelError: the network returns probabilities, or no logits [batch, classes].

    Source: thesis §5.2, §5.7.
    """
    x, logits = _traced(network)
    return _shifted(network, x, logits, _called("g", g, x, 1), "shifted")


def per_class_shift(network: keras.Model, phases: Any, epsilon: float) -> keras.Model:
    """Add a small function of its own to each logit: f̃_i = f_i + g_i, g_i = ½ε sin(phases_i(x)).

    Whatever the phases are, abs(g_i − g_j) ≤ ε. With p the softmax of f, the loss of class i moves
    by log Σ_j p_j exp(g_j − g_i), so that exactly, with no O(ε²),

        abs(ℓ̃_i − ℓ_i) ≤ log(p_i + (1 − p_i) exp ε) ≤ ε,

    and its gradient, with p̃ the softmax of f̃, by

        Σ_j p̃_j (∇g_j − ∇g_i) + Σ_j (p̃_j − p_j) ∇f_j,

    the first sum without bound where phases are steep. Both carry the factor 1 − p̃_i or p̃ − p: a
    class of low probability moves most, a confident one hardly. The predicted class can change only
    where the largest two logits differ by less than ε.

    Args:
        network: as for `shared_shift`.
        phases: a Keras layer or model from the same images to [batch, classes], in radians, for
            instance `Picture(pattern, scale=[m_1, …, m_K])`; its gradient is what loss-gradients
            will show. Phases that are all alike are a shared shift, which moves no loss.
        epsilon: ε, from 0 up.

    Returns:
        A functional model from images to logits, which holds the network and shares its weights.

    Raises:
        ArgumentError: the network has no known input, or `phases` is no such layer.
        ModelError: the network returns probabilities, or no logits [batch, classes].

    Source: Srinivas and Fleuret's preprint, §2.1 and its supplement, where the bound has an O(ε²).
    """
    epsilon = _size("epsilon", epsilon)
    x, logits = _traced(network)
    angles = _called("phases", phases, x, logits.shape[-1])
    return _shifted(network, x, logits, Ripple(epsilon / 2)(angles), "rippled")


def rippled(loss: Any, x: Any, epsilon: float, frequency: float) -> Any:
    """ℓ̃ = ℓ + ε sin(m·1ᵀx): a loss that hardly moves, with a gradient that does.

    abs(ℓ̃ − ℓ) ≤ ε, and ‖∇x ℓ̃ − ∇x ℓ‖₁ = m ε D abs(cos(m·1ᵀx)) ≤ m ε D for x of D entries. The phase
    is computed in float64: sine and cosine of a large one show its rounding.

    Args:
        loss: ℓ, one float for each example, [batch].
        x: the float images it is a function of, [batch, …].
        epsilon: ε, from 0 up.
        frequency: m, from 0 up.

    Returns:
        [batch], typed like the loss.

    Raises:
        ArgumentError: a number is not finite, or below 0; loss or images are no floats, or are not
            as many as each other.

    Source: thesis §5.7.1.
    """
    epsilon, frequency = _size("epsilon", epsilon), _size("frequency", frequency)
    loss, x = _floats("loss", loss), _floats("x", x)
    if loss.shape.rank == 0 or not loss.shape.is_compatible_with(x.shape[:1]):
        raise ArgumentError(
            f"loss: got shape {loss.shape} for x of shape {x.shape}; expected one number for each "
            "example, [batch]. Ask a Keras loss for reduction=None."
        )
    phase = frequency * tf.reduce_sum(tf.cast(x, tf.float64), axis=tf.range(1, tf.rank(x)))
    return loss + tf.cast(epsilon * tf.sin(phase), loss.dtype)


def _traced(network):
    """(the symbolic image, its logits) of a network that can be fooled."""
    inputs = getattr(network, "inputs", None)
    if not isinstance(network, keras.Model) or not inputs or len(inputs) != 1:
        raise ArgumentError(
            f"network: got {getattr(network, 'name', type(network).__name__)!r}, expected a "
            "functional or Sequential model with one input. Of a PenalizedModel give its .network."
        )
    x = keras.Input(batch_shape=inputs[0].shape, dtype=inputs[0].dtype, name="image")
    logits = network(x)
    if not isinstance(logits, keras.KerasTensor) or len(logits.shape) != 2:
        raise ModelError(
            f"network {network.name!r}: got outputs {network.output_shape}; expected logits "
            "[batch, classes]. tfgrad.models.one_head keeps one of several."
        )
    check_logits(network, tf.TensorSpec(x.shape, x.dtype))
    return x, logits


def _called(name, layer, x, outputs):
    """What a layer makes of the image, [batch, outputs]."""
    if not isinstance(layer, keras.layers.Layer):
        raise ArgumentError(
            f"{name}: got a {type(layer).__name__}; expected a Keras layer or model from images "
            f"to [batch, {outputs}], e.g. tfgrad.fooling.Picture."
        )
    y = layer(x)
    if tuple(y.shape[1:]) != (outputs,):
        raise ArgumentError(
            f"{name}: {layer.name!r} returns {tuple(y.shape)} for {x.shape}; expected "
            f"{(None, outputs)}."
        )
    return y


def _shifted(network, x, logits, shift, suffix):
    dtype = keras.backend.result_type(logits.dtype, "float32")
    total = keras.layers.Add(dtype=dtype, name="shifted_logits")([logits, shift])
    return keras.Model(x, total, name=f"{network.name}_{suffix}")


def _finite(name, values, ranks):
    """A float64 array of one of these ranks, or an ArgumentError."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"{name}: got {type(values).__name__} that is no array ({error}); expected numbers."
        ) from error
    if array.ndim not in ranks or not array.size or not np.isfinite(array).all():
        raise ArgumentError(
            f"{name}: got shape {array.shape}, finite: {bool(np.isfinite(array).all())}; expected "
            f"finite numbers of rank {' or '.join(map(str, ranks))}."
        )
    return array


def _floats(name, values):
    """A tensor of floats, or an ArgumentError."""
    tensor = tf.convert_to_tensor(values)
    if not tensor.dtype.is_floating:
        raise ArgumentError(
            f"{name}: got {tensor.dtype.name}, which has no gradient; expected floats. Try "
            f"tf.cast({name}, tf.float32)."
        )
    return tensor


def _size(name, value):
    """The float, or an ArgumentError."""
    array = _finite(name, value, ranks=(0,))
    if array < 0:
        raise ArgumentError(f"{name}: got {value!r}; expected a number from 0 up.")
    return float(array)
