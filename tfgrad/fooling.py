"""Models with arbitrary logit-gradients and unchanged predictions.

Exact constructions (thesis §5.2, §5.7) around a trained network, without further training:

    mask = tfgrad.penalties.fooling.corner(32, 32, side=15)
    fooled = tfgrad.fooling.shared_shift(network, tfgrad.fooling.Picture(mask, scale=10.0))
    fooled.save("fooled.keras")

| construction      | what is added                     | what changes                           |
|-------------------|-----------------------------------|----------------------------------------|
| `shared_shift`    | g(x) to every logit               | logit-gradients, by ∇g; no loss        |
| `per_class_shift` | g_i(x) to f_i, abs(g_i − g_j) ≤ ε | losses by ≤ ε, their gradients freely  |
| `rippled`         | ε sin(m·1ᵀx) to a loss            | the loss by ≤ ε, its gradient by ≤ mεD |

`tfgrad.penalties.SaliencyFooling` fine-tunes the network's own weights to the same effect.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients.class_scores import check_classes
from tfgrad.gradients.model_checks import check_logits
from tfgrad.internal.arguments import number
from tfgrad.models import output_meaning
from tfgrad.models.output_meaning import INDEPENDENT

_serializable = keras.saving.register_keras_serializable("tfgrad")


@_serializable
class Picture(keras.layers.Layer):
    """A linear form whose gradient is a picture: g_k(x) = scale_k Σ pattern ⊙ x.

    Args:
        pattern: Array [height, width], used for every channel, an array of the shape of one image,
            or a number: 1 gives g(x) = scale 1ᵀx.
        scale: A number, for one output, or one number for each of K outputs.
        **kwargs: Arguments of every Keras layer. The layer computes in `keras.config.floatx()`
            whatever the dtype policy, as half precision would round large values to integers.

    Shape: images [batch, height, width, channels] to [batch, K], K = 1 for a single scale.

    Raises:
        ArgumentError: A value is not finite, or the pattern does not fit the images.
    """

    def __init__(self, pattern: Any, scale: Any = 1.0, **kwargs: Any) -> None:
        super().__init__(**{"dtype": keras.config.floatx(), **kwargs})
        self.pattern = _finite("pattern", pattern, ranks=(0, 2, 3, 4))
        self.scale = _finite("scale", scale, ranks=(0, 1))

    def build(self, input_shape: Any) -> None:
        """Check the pattern against the shape of the images."""
        self._laid_out(tuple(input_shape)[1:])
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """scale Σ pattern ⊙ x of each example, [batch, K]."""
        pattern = ops.convert_to_tensor(self._laid_out(inputs.shape[1:]), self.compute_dtype)
        scale = ops.convert_to_tensor(np.atleast_1d(self.scale), self.compute_dtype)
        # Keras casts float inputs only.
        pixels = ops.cast(inputs, self.compute_dtype)
        products = ops.sum(pixels * pattern, axis=tuple(range(1, len(inputs.shape))))
        return ops.expand_dims(products, -1) * scale

    def compute_output_shape(self, input_shape: Any) -> Any:
        """[batch, K]."""
        return (input_shape[0], self.scale.size)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, with arrays as nested lists."""
        numbers = {"pattern": self.pattern.tolist(), "scale": self.scale.tolist()}
        return {**super().get_config(), **numbers}

    def _laid_out(self, shape: tuple[int | None, ...]) -> np.ndarray:
        """The pattern with as many axes as an image.

        Raises:
            ArgumentError: It does not fit images of this shape.
        """
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
    """amplitude · sin(z): bounded values, with a gradient as steep as that of z.

    Args:
        amplitude: Finite number ≥ 0.
        **kwargs: Arguments of every Keras layer; the dtype is chosen as in `Picture`.

    Shape: any; the output's is the input's.

    Raises:
        ArgumentError: The amplitude is not a finite number ≥ 0.
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


@_serializable
class TwoLogits(keras.layers.Layer):
    """[0, f] from one logit f of two classes, whose softmax is [1 − σ(f), σ(f)].

    Shape: [batch, 1] to [batch, 2].
    """

    def call(self, inputs: Any) -> Any:
        """[0, f], [batch, 2]."""
        return ops.concatenate([ops.zeros_like(inputs), inputs], -1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """[batch, 2]."""
        return (*input_shape[:-1], 2)


def shared_shift(network: keras.Model, g: Any, *, outputs: Any = None) -> keras.Model:
    """Add one function of the image to all logits: f̃_i(x) = f_i(x) + g(x).

    Predictions, probabilities, losses, loss-gradients and differences of two logits do not change,
    as softmax is invariant to g; logit-gradients become ∇f_i + ∇g, which can be any field.

    In floating point a logit is rounded to ε_mach abs(f_i + g), ε_mach = 6e-8 in float32, and so
    is the loss; a loss-gradient has an error of about ε_mach ‖∇g‖. Keep abs(g) below 1e3 for losses
    correct to 1e-4, or use float64. The loss-gradient of a confident example is tiny: there the
    error is small relative to the logit-gradients, but not relative to the loss-gradient.

    Args:
        network: A functional or Sequential model from one image to logits [batch, classes].
        g: A Keras layer or model from the same images to [batch, 1], for instance a `Picture`.
        outputs: What the network's outputs mean, see `tfgrad.models.output_meaning`; None for what
            its compiled loss says. Of one logit f of two classes, whose probability would change
            with g, the result has the two logits [g, f + g].

    Returns:
        A functional model from images to logits, which contains the network and shares its weights.

    Raises:
        ArgumentError: The network has no known input, or g is not such a layer; or the outputs are
            independent labels, whose sigmoids g would change, or a regression.
        ModelError: The network returns probabilities, or no logits [batch, classes].

    Source: thesis §5.2, §5.7.
    """
    x, logits, meaning = _traced(network, outputs)
    if meaning == INDEPENDENT:
        raise ArgumentError(
            f"network {network.name!r}: got independent labels, whose sigmoids change with the "
            "shift; expected exclusive classes; try per_class_shift, which bounds the change."
        )
    return _shifted(network, x, logits, _called("g", g, x, 1), "shifted")


def per_class_shift(
    network: keras.Model, phases: Any, epsilon: float, *, outputs: Any = None
) -> keras.Model:
    """Add a different small function to each logit: f̃_i = f_i + g_i, g_i = ½ε sin(phases_i(x)).

    For any phases, abs(g_i − g_j) ≤ ε. With p the softmax of f, the loss of class i changes by
    log Σ_j p_j exp(g_j − g_i), so that exactly, without an O(ε²),

        abs(ℓ̃_i − ℓ_i) ≤ log(p_i + (1 − p_i) exp ε) ≤ ε,

    and its gradient, with p̃ the softmax of f̃, changes by

        Σ_j p̃_j (∇g_j − ∇g_i) + Σ_j (p̃_j − p_j) ∇f_j,

    where the first sum is unbounded as the phases get steeper. Both have the factor 1 − p̃_i or
    p̃ − p: the loss of a class of low probability changes most, that of a confident one hardly. The
    predicted class can change only where the largest two logits differ by less than ε.

    Args:
        network: See `shared_shift`.
        phases: A Keras layer or model from the same images to [batch, classes], in radians, for
            instance `Picture(pattern, scale=[m_1, …, m_K])`; loss-gradients will show its gradient.
            Equal phases are a shared shift, which changes no loss.
        epsilon: ε ≥ 0.
        outputs: See `shared_shift`: one logit f of two classes counts as [0, f], with two phases.
            The loss of independent labels, each with its own sigmoid, changes by ≤ ½ε per label.

    Returns:
        A functional model from images to logits, which contains the network and shares its weights.

    Raises:
        ArgumentError: The network has no known input, or `phases` is not such a layer.
        ModelError: The network returns probabilities, or no logits [batch, classes].

    Source: Srinivas and Fleuret's preprint, §2.1 and its supplement, where the bound has an O(ε²).
    """
    epsilon = _size("epsilon", epsilon)
    x, logits, _ = _traced(network, outputs)
    angles = _called("phases", phases, x, logits.shape[-1])
    return _shifted(network, x, logits, Ripple(epsilon / 2)(angles), "rippled")


def rippled(loss: Any, x: Any, epsilon: float, frequency: float) -> Any:
    """ℓ̃ = ℓ + ε sin(m·1ᵀx): a loss that hardly changes, with a gradient that does.

    abs(ℓ̃ − ℓ) ≤ ε, and ‖∇x ℓ̃ − ∇x ℓ‖₁ = m ε D abs(cos(m·1ᵀx)) ≤ m ε D for x of D entries. The phase
    is computed in float64, as sine and cosine of a large phase amplify its rounding.

    Args:
        loss: The loss ℓ of each example, float [batch].
        x: The float images of which it is a function, [batch, …].
        epsilon: ε ≥ 0.
        frequency: m ≥ 0.

    Returns:
        The loss ℓ̃, [batch], in the dtype of `loss`.

    Raises:
        ArgumentError: A number is not finite or is below 0; loss or images are not floats, or
            their batch sizes differ.

    Source: thesis §5.7.1.
    """
    epsilon, frequency = _size("epsilon", epsilon), _size("frequency", frequency)
    loss, x = _floats("loss", loss), _floats("x", x)
    if loss.shape.rank == 0 or not loss.shape.is_compatible_with(x.shape[:1]):
        raise ArgumentError(
            f"loss: got shape {loss.shape} for x of shape {x.shape}; expected one number for each "
            "example, [batch]; try reduction=None of a Keras loss."
        )
    phase = frequency * tf.reduce_sum(tf.cast(x, tf.float64), axis=tf.range(1, tf.rank(x)))
    return loss + tf.cast(epsilon * tf.sin(phase), loss.dtype)


def _traced(network: Any, outputs: Any) -> tuple[Any, Any, str]:
    """The symbolic image, its logits ([0, f] of one logit f) and what they mean.

    Raises:
        ArgumentError: The network is not a functional or Sequential model with one input, or it is
            a regression.
        ModelError: The network returns probabilities, or no logits [batch, classes].
    """
    inputs = getattr(network, "inputs", None)
    if not isinstance(network, keras.Model) or not inputs or len(inputs) != 1:
        raise ArgumentError(
            f"network: got {getattr(network, 'name', type(network).__name__)!r}; expected a "
            "functional or Sequential model with one input. Of a PenalizedModel give its .network."
        )
    x = keras.Input(batch_shape=inputs[0].shape, dtype=inputs[0].dtype, name="image")
    logits = network(x)
    if not isinstance(logits, keras.KerasTensor) or len(logits.shape) != 2:
        raise ModelError(
            f"network {network.name!r}: got outputs {network.output_shape}; expected logits "
            "[batch, classes]; try tfgrad.models.one_head, which keeps one of several."
        )
    check_logits(network, tf.TensorSpec(x.shape, x.dtype))
    count = logits.shape[-1]
    output_meaning.warn_if_assumed(network, outputs, count)
    meaning = output_meaning.meaning(network, outputs, count)
    check_classes(meaning, "a model with the same predictions")
    if meaning == output_meaning.BINARY:
        logits = TwoLogits(dtype=logits.dtype, name="two_logits")(logits)
    return x, logits, meaning


def _called(name: str, layer: Any, x: Any, outputs: int) -> Any:
    """The layer's output for the symbolic image, [batch, outputs].

    Raises:
        ArgumentError: The argument `name` is not a layer, or returns another shape.
    """
    if not isinstance(layer, keras.layers.Layer):
        raise ArgumentError(
            f"{name}: got a {type(layer).__name__}; expected a Keras layer or model from images "
            f"to [batch, {outputs}]; try tfgrad.fooling.Picture."
        )
    y = layer(x)
    if tuple(y.shape[1:]) != (outputs,):
        raise ArgumentError(
            f"{name}: got {layer.name!r}, which returns {tuple(y.shape)} for {x.shape}; expected "
            f"{(None, outputs)}."
        )
    return y


def _shifted(network: keras.Model, x: Any, logits: Any, shift: Any, suffix: str) -> keras.Model:
    """The model that returns logits + shift, in float32 or wider."""
    dtype = keras.backend.result_type(logits.dtype, "float32")
    total = keras.layers.Add(dtype=dtype, name="shifted_logits")([logits, shift])
    shifted = keras.Model(x, total, name=f"{network.name}_{suffix}")
    one = network.output_shape[-1] == 1
    output_meaning.remember(shifted, output_meaning.EXCLUSIVE if one else None)
    return shifted if one else output_meaning.inherit(shifted, network)


def _finite(name: str, values: Any, ranks: tuple[int, ...]) -> np.ndarray:
    """A finite float64 array of one of these ranks.

    Raises:
        ArgumentError: The argument `name` is not.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"{name}: got {type(values).__name__} that is no array ({error}); expected finite "
            f"numbers of rank {' or '.join(map(str, ranks))}."
        ) from error
    if array.ndim not in ranks or not array.size or not np.isfinite(array).all():
        raise ArgumentError(
            f"{name}: got shape {array.shape}, finite: {bool(np.isfinite(array).all())}; expected "
            f"finite numbers of rank {' or '.join(map(str, ranks))}."
        )
    return array


def _floats(name: str, values: Any) -> tf.Tensor:
    """A tensor of floats.

    Raises:
        ArgumentError: The argument `name` is of another dtype.
    """
    tensor = tf.convert_to_tensor(values)
    if not tensor.dtype.is_floating:
        raise ArgumentError(
            f"{name}: got {tensor.dtype.name}, which has no gradient; expected floats; try "
            f"tf.cast({name}, tf.float32)."
        )
    return tensor


def _size(name: str, value: Any) -> float:
    """A finite number ≥ 0, also out of an array or tensor of rank 0.

    Raises:
        ArgumentError: The argument `name` is not.
    """
    return number(name, _finite(name, value, ranks=(0,)).item(), zero=True)
