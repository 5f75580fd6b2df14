"""The attributions of any method, averaged over noisy copies of the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import tensorflow as tf

from tfgrad.errors import ArgumentError, TfgradError
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer, number
from tfgrad.internal.stateless_noise import Draws
from tfgrad.saliency import asked
from tfgrad.saliency.base import Method
from tfgrad.saliency.input_gradient import InputGradient
from tfgrad.saliency.options import MethodOptions


class Smooth(Method):
    """The map of a method's raw terms averaged over noisy images x + n.

    terms = 1/N Σ t(x + n_i), n_i ~ N(0, (noise · (max x − min x))² I), with the range of each
    image; with `square`, 1/N Σ t(x + n_i)². The averaged terms are signed: the absolute value of a
    gradient, for instance, is taken of the mean.

    Of several inputs each has its own noise, scaled to its own range; token ids have theirs at the
    embedding. Steps that the network masks (`keras.layers.Masking`) get no noise, which would show
    them, and do not count in the range. The class is fixed on the clean image. The noise of sample
    i depends only on (seed, i), so every image gets the same pattern, scaled by its range, in any
    batch. Costs N forward and backward passes, in the memory of one. The averages describe a
    neighbourhood of x: terms that add up to the score at x no longer do so.

    Args:
        method: The method to smooth, any but those of tf-keras-vis.
        samples: Number of noisy copies N.
        noise: Standard deviation of the noise as a share of the image's range, ≥ 0.
        square: Whether to average squares.
        seed: Seed of the noise, integer ≥ 0.
        **options: See `MethodOptions`; None takes that of `method`, and `inputs` and `at` are its.

    Source: Smilkov et al., "SmoothGrad: removing noise by adding noise" (2017), section 3; squares:
    Hooker et al., "A Benchmark for Interpretability Methods" (2019).
    """

    asks_gradients_alone = True  # of its own probe, at the clean inputs

    def __init__(
        self,
        method: Method,
        samples: int = 25,
        noise: float = 0.15,
        square: bool = False,
        seed: int = 0,
        **options: Unpack[MethodOptions],
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
        for name in ("inputs", "at"):
            if options.get(name) is not None:
                raise ArgumentError(
                    f"{name}: got {options.get(name)!r}; expected None, as the noise is added to "
                    f"what the method explains; try the option {name}= of that method."
                )
        super().__init__(
            method.model,
            chunk_size=options.get("chunk_size") or method.chunk_size,
            outputs=options.get("outputs") or method.outputs,
            channels=options.get("channels") or method.channels,
            target=method.target if options.get("target") is None else options.get("target"),
            inputs=method.inputs,
            at=method.at,
        )
        self._every = method._every
        # An exported method's signature has this name.
        self.name = type(self).name or f"smooth_{method.name}"

    def attribute(self, probe: Probe, target: Any) -> Any:
        """The mean of the method's terms, or of their squares."""
        found, tensors = self.explained(probe.x), probe.differentiated
        # The standard deviation of the noise: 0 at masked steps, which noise would show.
        sigmas = [
            self.noise * _range(t, visible) if kept else None
            for t, visible, kept in zip(tensors, probe.visible(), found.kept, strict=True)
        ]
        layouts = self.layouts(tensors)
        of_target = asked.tensors(target)
        one_pass = self._one_pass(probe.x, found.apart(probe.x, tensors)[1], target)

        def sample(i: Any) -> Any:
            # One pattern for all examples: drawn for the first one and broadcast to the others.
            moved = []
            for stream, (t, sigma, layout) in enumerate(zip(tensors, sigmas, layouts, strict=True)):
                if sigma is None:
                    moved.append(t)
                    continue
                first = layout.channels_last(t[:1])
                (pattern,) = Draws(step=i).normal(first, 1, self.seed, stream)
                moved.append(t + sigma * layout.as_given(pattern))
            terms = one_pass(*found.apart(probe.x, moved), of_target)
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

    def _one_pass(self, x: Any, values: dict[str, tf.Tensor], target: Any) -> Callable[..., Any]:
        """The method's terms, traced once although a graph evaluates them in two places."""

        def terms(x: Any, values: dict[str, tf.Tensor], of_target: dict[str, tf.Tensor]) -> Any:
            asks = asked.with_tensors(target, of_target)
            if not values:
                return self.method.terms(x, asks)
            return self.method.terms(x, asks, values)

        if tf.executing_eagerly():
            return terms
        example = (x, values, asked.tensors(target))
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in tf.nest.flatten(example)]
        traced = tf.function(
            lambda *flat: terms(*tf.nest.pack_sequence_as(example, flat)), autograph=False
        ).get_concrete_function(*specs)
        return lambda *given: traced(*tf.nest.flatten(given))

    def assemble(self, terms: Any, x: Any) -> Any:
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
        model: See `Method`.
        samples, noise, seed: See `Smooth`, also for the source and for what the map describes.
        of, temperature, reduce: See `InputGradient`.
    """

    name = "smoothgrad"
    asks_gradients_alone = True
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
        **options: Unpack[MethodOptions],
    ) -> None:
        gradient = InputGradient(model, of, temperature, reduce, **options)
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
    asks_gradients_alone = True
    _square = True
