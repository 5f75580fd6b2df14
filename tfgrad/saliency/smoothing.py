"""Attributions averaged over noisy copies of the image, for any method."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer, number
from tfgrad.internal.stateless_noise import Draws
from tfgrad.saliency.base import Method
from tfgrad.saliency.input_gradient import InputGradient


class Smooth(Method):
    """A method's raw terms averaged over x + n, and then made into a map.

    terms = 1/N Σ t(x + n_i), n_i ~ N(0, (noise · (max x − min x))² I), the range taken per image;
    with `square`, 1/N Σ t(x + n_i)². What is averaged is signed: the absolute value of a gradient,
    for instance, is taken of the mean.

    Smilkov et al., "SmoothGrad: removing noise by adding noise" (2017), section 3; squares: Hooker
    et al., "A Benchmark for Interpretability Methods" (2019). The class is fixed on the clean
    image. The noise of sample i depends on (seed, i) alone, so every image gets the same pattern
    (scaled by its range) whatever batch it comes in. Costs N passes, in the memory of one.

    Args:
        method: what is smoothed, any method.
        samples: N.
        noise: standard deviation of the noise as a share of the image's range, from 0 up.
        square: whether to average squares.
        seed: of the noise, an int.
        chunk_size: see `Method`; None takes the method's own.
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
    ) -> None:
        if not isinstance(method, Method):
            raise ArgumentError(
                f"method: got a {type(method).__name__}; expected a method built around a model, "
                "such as Smooth(GradCAM(model))."
            )
        self.method = method
        self.samples = integer("samples", samples)
        self.noise = number("noise", noise, zero=True)
        self.square = bool(square)
        self.seed = integer("seed", seed, lowest=0)
        super().__init__(method.network, chunk_size=chunk_size or method.chunk_size)
        # A signature's name, where it is exported.
        self.name = type(self).name or f"smooth_{method.name}"

    def attribute(self, probe: Probe, classes: tf.Tensor) -> Any:
        """The mean of the method's terms, or of their squares."""
        x = self.image(probe)
        pixels = tf.range(1, x.shape.rank)
        deviation = self.noise * (
            tf.reduce_max(x, pixels, keepdims=True) - tf.reduce_min(x, pixels, keepdims=True)
        )

        one_pass = self._one_pass(x, classes)

        def sample(i: Any) -> Any:
            # One pattern for all: drawn for the first example, broadcast to the others.
            (pattern,) = Draws(step=i).normal(x[:1], samples=1, seed=self.seed)
            terms = one_pass(x + deviation * pattern, classes)
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
        """The method's terms, traced once for both places in which a graph needs them."""
        if tf.executing_eagerly():
            return self.method.terms
        return tf.function(self.method.terms, autograph=False).get_concrete_function(
            tf.TensorSpec(x.shape, x.dtype), tf.TensorSpec(classes.shape, classes.dtype)
        )

    def assemble(self, terms: Any, x: tf.Tensor) -> tf.Tensor:
        """As the method does."""
        return self.method.assemble(terms, x)

    def options(self) -> dict[str, Any]:
        """`method` and its options, `samples`, `noise`, `square`, `seed`."""
        method = {"name": self.method.name, **self.method.options()}
        return {"method": method, **self._own_options(), "square": self.square}

    def _own_options(self) -> dict[str, Any]:
        return {"samples": self.samples, "noise": self.noise, "seed": self.seed}


class SmoothGrad(Smooth):
    """`Smooth` of `InputGradient`: s[h, w] = Σ_c abs(mean_i ∂f_y/∂x[h, w, c] at x + n_i).

    Args:
        model: see `Method`.
        samples: see `Smooth`.
        noise: see `Smooth`.
        seed: see `Smooth`.
        of: see `InputGradient`.
        temperature: see `InputGradient`.
        reduce: see `InputGradient`.
        chunk_size: see `Method`.
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
    ) -> None:
        gradient = InputGradient(model, of, temperature, reduce, chunk_size=chunk_size)
        super().__init__(gradient, samples, noise, self._square, seed)

    def options(self) -> dict[str, Any]:
        """`samples`, `noise`, `seed` and those of `InputGradient`."""
        return self._own_options() | self.method.options()


class SmoothGradSquared(SmoothGrad):
    """`SmoothGrad` of squares: s[h, w] = Σ_c mean_i (∂f_y/∂x[h, w, c])² at x + n_i.

    Hooker et al. (2019), section 4. Arguments: see `SmoothGrad`.
    """

    name = "smoothgrad_squared"
    _square = True
