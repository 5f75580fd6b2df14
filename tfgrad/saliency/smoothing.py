"""The attributions of any method, averaged over noisy copies of the image."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgrad.errors import ArgumentError, TfgradError
from tfgrad.gradients import masks
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer, number
from tfgrad.internal.stateless_noise import Draws
from tfgrad.saliency.base import Method
from tfgrad.saliency.input_gradient import InputGradient


class Smooth(Method):
    """The map of a method's raw terms averaged over noisy images x + n.

    terms = 1/N Σ t(x + n_i), n_i ~ N(0, (noise · (max x − min x))² I), with the range of each
    image; with `square`, 1/N Σ t(x + n_i)². The averaged terms are signed: the absolute value of a
    gradient, for instance, is taken of the mean.

    Steps that the network masks (`keras.layers.Masking`) get no noise, which would show them, and
    do not count in the range. The class is fixed on the clean image. The noise of sample i depends
    only on (seed, i), so every image gets the same pattern, scaled by its range, in any batch.
    Costs N forward and backward passes, in the memory of one. The averages describe a neighbourhood
    of x: terms that add up to the score at x no longer do so.

    Args:
        method: The method to smooth, any but those of tf-keras-vis.
        samples: Number of noisy copies N.
        noise: Standard deviation of the noise as a share of the image's range, ≥ 0.
        square: Whether to average squares.
        seed: Seed of the noise, integer ≥ 0.
        chunk_size, outputs, channels: See `Method`; None takes that of `method`.

    Source: Smilkov et al., "SmoothGrad: removing noise by adding noise" (2017), section 3; squares:
    Hooker et al., "A Benchmark for Interpretability Methods" (2019).
    """

    def __init__(
        self,
        method: Method,
        samples: int = 25,
        noise: float = 0.15,
        square: bool = False,
        seed: int = 0,
        *,
        chunk_size: int | None = None,
        outputs: Any = None,
        channels: str | None = None,
    ) -> None:
        if not isinstance(method, Method):
            raise ArgumentError(
                f"method: got a {type(method).__name__}; expected a method built for a model, such "
                "as Smooth(GradCAM(model))."
            )
        self.method = method
        self.samples = integer("samples", samples)
        self.noise = number("noise", noise, zero=True)
        self.square = bool(square)
        self.seed = integer("seed", seed, lowest=0)
        super().__init__(
            method.network,
            chunk_size=chunk_size or method.chunk_size,
            outputs=outputs or method.outputs,
            channels=channels or method.channels,
        )
        # An exported method's signature has this name.
        self.name = type(self).name or f"smooth_{method.name}"

    def attribute(self, probe: Probe, classes: tf.Tensor) -> Any:
        """The mean of the method's terms, or of their squares."""
        x = self.image(probe)
        # The standard deviation of the noise: 0 at masked steps, which noise would show.
        sigma = self.noise * _range(x, masks.visible(self.network, x))

        one_pass, layout = self._one_pass(x, classes), self.layout(x)

        def sample(i: Any) -> Any:
            # One pattern for all examples: drawn for the first one and broadcast to the others.
            first = layout.channels_last(x[:1])
            (pattern,) = Draws(step=i).normal(first, samples=1, seed=self.seed)
            pattern = layout.as_given(pattern)
            terms = one_pass(x + sigma * pattern, classes)
            return tf.nest.map_structure(tf.square, terms) if self.square else terms

        def step(i: tf.Tensor, total: Any) -> tuple[tf.Tensor, Any]:
            return i + 1, tf.nest.map_structure(tf.add, total, sample(i))

        # The first sample gives the accumulators their shapes.
        _, total = tf.while_loop(
            lambda i, _: i < self.samples,
            step,
            (tf.constant(1), sample(tf.constant(0))),
            parallel_iterations=1,
        )
        return tf.nest.map_structure(lambda t: t / self.samples, total)

    def _one_pass(self, x: tf.Tensor, classes: tf.Tensor) -> Any:
        """The method's terms, traced once although a graph evaluates them in two places."""
        if tf.executing_eagerly():
            return self.method.terms
        return tf.function(self.method.terms, autograph=False).get_concrete_function(
            tf.TensorSpec(x.shape, x.dtype), tf.TensorSpec(classes.shape, classes.dtype)
        )

    def assemble(self, terms: Any, x: tf.Tensor) -> tf.Tensor:
        """The map that the smoothed method makes of its terms."""
        return self.method.assemble(terms, x)

    def translated(self, error: tf.errors.InvalidArgumentError) -> TfgradError | None:
        """The error that the smoothed method raises in its place."""
        return self.method.translated(error)

    def options(self) -> dict[str, Any]:
        """`method` with its options, `samples`, `noise`, `square`, `seed`."""
        method = {"name": self.method.name, **self.method.stated()}
        return {"method": method, **self._own_options(), "square": self.square}

    def _own_options(self) -> dict[str, Any]:
        return {"samples": self.samples, "noise": self.noise, "seed": self.seed}


def _range(x: tf.Tensor, visible: tf.Tensor | None) -> tf.Tensor:
    """max − min of each example, to be broadcast; of its visible values, and 0 at the others."""
    pixels = tf.range(1, x.shape.rank)
    low = high = x
    if visible is not None:
        low = tf.where(visible, x, x.dtype.max)
        high = tf.where(visible, x, x.dtype.min)
    highest = tf.reduce_max(high, pixels, keepdims=True)
    spread = highest - tf.reduce_min(low, pixels, keepdims=True)
    if visible is None:
        return spread
    return tf.where(visible, spread, tf.zeros_like(spread))


class SmoothGrad(Smooth):
    """`Smooth` of `InputGradient`: s[h, w] = Σ_c abs(mean_i ∂f_y/∂x[h, w, c] at x + n_i).

    Args:
        model, chunk_size, outputs, channels: See `Method`.
        samples, noise, seed: See `Smooth`, also for the source and for what the map describes.
        of, temperature, reduce: See `InputGradient`.
    """

    name = "smoothgrad"
    _square = False

    def __init__(
        self,
        model: Any,
        samples: int = 25,
        noise: float = 0.15,
        seed: int = 0,
        of: str = "logit",
        temperature: float = 1.0,
        reduce: str = "abs_sum",
        *,
        chunk_size: int | None = None,
        outputs: Any = None,
        channels: str | None = None,
    ) -> None:
        gradient = InputGradient(
            model,
            of,
            temperature,
            reduce,
            chunk_size=chunk_size,
            outputs=outputs,
            channels=channels,
        )
        super().__init__(gradient, samples, noise, self._square, seed)

    def options(self) -> dict[str, Any]:
        """`samples`, `noise`, `seed` and those of `InputGradient`."""
        return self._own_options() | self.method.options()


class SmoothGradSquared(SmoothGrad):
    """`SmoothGrad` of squares: s[h, w] = Σ_c mean_i (∂f_y/∂x[h, w, c])² at x + n_i.

    A mean square contains the gradient's variance under the noise as well as its mean. Arguments:
    see `SmoothGrad`.

    Source: Hooker et al., "A Benchmark for Interpretability Methods" (2019), section 4.
    """

    name = "smoothgrad_squared"
    _square = True
