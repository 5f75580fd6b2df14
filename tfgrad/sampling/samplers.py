"""Images that a classifier's implicit density finds likely: modes by ascent, samples by Langevin.

The logit f_y of a classifier is log p(x, y) up to a constant (thesis §5.3), so its gradient with
respect to the input is the score ∇x log p(x | y). Both rules follow it from many start images:

    start = sampling.noise(64, (32, 32, 3), seed=1)
    samples = sampling.gradient_ascent(model, 3, start)
    samples.images                      # [64, 32, 32, 3]
    samples.scores[:, [0, -1]]          # the logit before and after

Whether such images mean anything to another network is the GAN-test of `tfgrad.evaluation`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError, NonFiniteError
from tfgrad.gradients import model_checks, targets
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer, number
from tfgrad.internal.stateless_noise import Draws
from tfgrad.sampling import starting_images

# Streams of one seed: a start must not be drawn with the numbers of the first step.
_STEPS, _NOISE, _NOISED = range(3)

# So many numbers are drawn at a time, each of which takes a dozen times its own memory.
_PART = 2**20


@dataclasses.dataclass(frozen=True)
class Samples:
    """Where a run from n start images ended, and the way there.

    Attributes:
        images: the last iterates, [n, …]; float64 where the model takes that, else float32.
        classes: whose logit each one followed, int32 [n].
        scores: f_y of every iterate, the start's first, [n, steps + 1].
        gradient_norms: ‖∇x f_y‖ at every iterate but the last, [n, steps].
        outputs: the number of logits of the model.
        settings: the rule and its options, as JSON can hold them.
    """

    images: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    gradient_norms: np.ndarray
    outputs: int
    settings: Mapping[str, Any]


def gradient_ascent(
    model: Any,
    target: Any,
    start: Any,
    *,
    steps: int = 500,
    step_size: float = 0.1,
    pull: float = 1e-2,
    centre: Any = 0.5,
    bounds: Any = (0.0, 1.0),
    batch_size: int = 64,
    every: int = 50,
    on_step: Callable[[int, np.ndarray], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Follow the logit uphill: x ← clip(x + α (∇x f_y(x) − c (x − x₀))).

    This is activity maximisation: it finds modes of p(x | y), it does not sample. The clamp is the
    preprint's; the pull towards mid-grey, the gradient of −c/2 ‖x − x₀‖², is in the published code.
    The defaults are those of the papers' GAN-test; for "denoising", from `noised` images, they take
    200 steps of 0.01 without pull.

    Args:
        model: a built Keras model with one float input that returns logits [batch, classes].
            It runs in inference mode, half precision in float32, and nothing of it changes.
        target: the class of all images, ints [n], or "predicted": the class of the start image.
        start: float images [n, …] as the model takes them, within `bounds`.
        steps: how many.
        step_size: α > 0.
        pull: c ≥ 0.
        centre: x₀, a number or an array that broadcasts against an image, such as one number per
            channel of images that were normalised.
        bounds: (lowest, highest), each like `centre`; None clips nothing.
        batch_size: images at a time: bounds memory and changes no number beyond rounding.
        every: steps between two calls of `on_step`, and between two looks for NaN.
        on_step: called with the number of steps done and a copy of all images.
        progress: called with the number of image updates done, and with that of all to come.

    Raises:
        ArgumentError: the model is no Keras model, or has several inputs or an integer one; the
            images are no floats, lie outside the bounds or do not fit the model; the class does
            not exist; a number is out of its range.
        DataError: a start image holds NaN or infinite pixels.
        ModelError: the model is not built, or returns something else than finite logits.
        NonFiniteError: an image, score or gradient became NaN or infinite on the way.

    Source: preprint §4.2.1, thesis §5.4.1.
    """
    climb, hold = number("step_size", step_size), number("pull", pull, zero=True)
    chain = _Chain(model, start, bounds)
    middle = starting_images.broadcast("centre", centre, chain.shape)

    def move(x: tf.Tensor, gradient: tf.Tensor, draws: Draws) -> tf.Tensor:
        return x + climb * (gradient - hold * (x - tf.cast(middle, x.dtype)))

    settings = {"rule": "gradient_ascent", "step_size": climb, "pull": hold}
    settings["centre"] = middle.tolist()
    return chain.run(move, target, steps, batch_size, every, on_step, progress, settings)


def langevin(
    model: Any,
    target: Any,
    start: Any,
    *,
    steps: int,
    step_size: float,
    seed: int = 0,
    bounds: Any = None,
    batch_size: int = 64,
    every: int = 50,
    on_step: Callable[[int, np.ndarray], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Unadjusted Langevin dynamics: x ← x + ε ∇x f_y(x) + √(2ε) z, z ~ N(0, I).

    Samples p(x | y) in the limit of many small steps. A fixed step leaves a bias: on a Gaussian of
    variance s² the chain's own variance is s² / (1 − ε / (2s²)). The thesis's −ε∇ (§1.5.1) is a
    misprint that would flee from the density. Image i draws the same noise in whatever batch.

    Args:
        model: see `gradient_ascent`.
        target: see `gradient_ascent`.
        start: see `gradient_ascent`.
        steps: how many.
        step_size: ε > 0.
        seed: of the noise, from 0 up.
        bounds: None, or (lowest, highest) to clip every iterate to. Clipping is no part of the
            dynamics: it piles samples up on the bounds and biases them.
        batch_size: see `gradient_ascent`.
        every: see `gradient_ascent`.
        on_step: see `gradient_ascent`.
        progress: see `gradient_ascent`.

    Raises:
        ArgumentError, DataError, ModelError, NonFiniteError: see `gradient_ascent`.

    Source: thesis §1.5.1; Welling and Teh, ICML 2011.
    """
    drift, seed = number("step_size", step_size), integer("seed", seed, lowest=0)
    spread = math.sqrt(2 * drift)

    def move(x: tf.Tensor, gradient: tf.Tensor, draws: Draws) -> tf.Tensor:
        return x + drift * gradient + spread * draws.normal(x, 1, seed, _STEPS)[0]

    settings = {"rule": "langevin", "step_size": drift, "seed": seed}
    chain = _Chain(model, start, bounds)
    return chain.run(move, target, steps, batch_size, every, on_step, progress, settings)


def noise(
    count: int,
    shape: tuple[int, ...],
    seed: int = 0,
    mean: Any = 0.5,
    deviation: float = 0.2,
    bounds: Any = (0.0, 1.0),
) -> np.ndarray:
    """Start images of Gaussian pixels, clipped: float32 [count, *shape].

    Args:
        count: how many; a larger count begins with the images of a smaller one.
        shape: of one image.
        seed: which images.
        mean: of every pixel, like `centre` of `gradient_ascent`.
        deviation: of every pixel, above 0.
        bounds: (lowest, highest), or None to clip nothing.

    Raises:
        ArgumentError: an argument is out of its range.
    """
    count, seed = integer("count", count), integer("seed", seed, lowest=0)
    shape = starting_images.image_shape(shape)
    middle = starting_images.broadcast("mean", mean, shape).astype(np.float32)
    spread, limits = number("deviation", deviation), starting_images.limits(bounds, shape)
    return _perturbed(np.broadcast_to(middle, (count, *shape)), spread, limits, seed, _NOISE)


def noised(images: Any, sigma: float = 0.1, seed: int = 0, bounds: Any = (0.0, 1.0)) -> np.ndarray:
    """Images under Gaussian noise, clipped: the start of "denoising" (preprint §4.2.1).

    Args:
        images: float images [n, …] within `bounds`.
        sigma: of the noise, above 0, in the units of the images.
        seed: which noise; image i has its own, whatever follows it.
        bounds: (lowest, highest), or None to clip nothing.

    Raises:
        ArgumentError: the images are no floats or lie outside the bounds, or a number is out of its
            range.
        DataError: an image holds NaN or infinite pixels.
    """
    x = starting_images.float_images("images", images)
    limits = starting_images.limits(bounds, x.shape[1:])
    starting_images.check_inside("images", x, limits)
    spread, seed = number("sigma", sigma), integer("seed", seed, lowest=0)
    return _perturbed(x, spread, limits, seed, _NOISED)


class _Chain:
    """Start images, checked against a network, and the compiled functions that move them."""

    def __init__(self, model: Any, start: Any, bounds: Any) -> None:
        self.network = model_checks.network(model)
        expected = tf.TensorShape(model_checks.input_shape(self.network))
        self.dtype = model_checks.input_dtype(self.network)
        model_checks.check_outputs(self.network)
        images = starting_images.float_images("start", start)
        if not expected.is_compatible_with(images.shape):
            raise ArgumentError(
                f"start: got shape {images.shape}; the model takes {expected}. One image is a "
                "batch too: start[None]."
            )
        self.shape = images.shape[1:]
        self.limits = starting_images.limits(bounds, self.shape)
        starting_images.check_inside("start", images, self.limits)
        model_checks.check_logits(self.network, tf.TensorSpec([None, *self.shape], self.dtype))
        # Half precision would lose steps that are small beside the pixels.
        self.images = images.astype(np.float64 if self.dtype == "float64" else np.float32)
        self.spec = tf.TensorSpec([None, *self.shape], self.images.dtype)
        self.logits = tf.function(
            lambda x: self._probe(x).logits, input_signature=[self.spec], autograph=False
        )

    def run(
        self,
        move: Callable[[tf.Tensor, tf.Tensor, Draws], tf.Tensor],
        target: Any,
        steps: int,
        batch_size: int,
        every: int,
        on_step: Callable[[int, np.ndarray], None] | None,
        progress: Callable[[int, int], None] | None,
        settings: Mapping[str, Any],
    ) -> Samples:
        """All steps of a rule; the arguments are those of `gradient_ascent`."""
        steps, every = integer("steps", steps), integer("every", every)
        size, count = integer("batch_size", batch_size), len(self.images)
        parts = [slice(a, min(a + size, count)) for a in range(0, count, size)]
        classes, outputs = self._resolved(target, parts)
        advance = self._advance(move)
        images, step_size = self.images.copy(), settings["step_size"]
        scores = np.empty((count, steps + 1), images.dtype)
        norms = np.empty((count, steps), images.dtype)
        for first in range(0, steps, every):
            done = min(first + every, steps)
            for part in parts:
                moved = advance(images[part], classes[part], first, done - first, part.start)
                x, f, g = (tensor.numpy() for tensor in moved)
                _check_finite(x, f, g, first, step_size)
                images[part], scores[part, first:done], norms[part, first:done] = x, f, g
                if progress is not None:
                    progress(count * first + part.stop * (done - first), count * steps)
            if on_step is not None:
                on_step(done, images.copy())
        last = np.concatenate([self.logits(images[part]) for part in parts])
        scores[:, -1] = last[np.arange(count), classes]
        _check_finite(images, scores[:, -1:], norms[:, :0], steps, step_size)
        limits = None if self.limits is None else [limit.tolist() for limit in self.limits]
        described = {**settings, "steps": steps, "bounds": limits}
        return Samples(images, classes, scores, norms, outputs, described)

    def _probe(self, x: tf.Tensor) -> Probe:
        """The network at x in inference mode, in float32 or wider, nothing of the model moved."""
        with keras.StatelessScope(collect_losses=True):
            return Probe(self.network, tf.cast(x, self.dtype), training=False).in_float32()

    def _resolved(self, target: Any, parts: list[slice]) -> tuple[np.ndarray, int]:
        """The classes of the start images, int32 [n], and the number of logits."""
        if isinstance(target, str) and target != "predicted":
            raise ArgumentError(
                f"target: got {target!r}; a sample follows one class. Pass an int, the classes as "
                "ints [n], or 'predicted'."
            )
        logits = np.concatenate([self.logits(self.images[part]) for part in parts])
        if not np.isfinite(logits).all():
            raise ModelError(
                f"model {self.network.name!r}: its logits at the start images are NaN or infinite; "
                "check its weights, and that the images are scaled as in training."
            )
        classes = targets.classes(targets.validated(target, allow_all=False), tf.constant(logits))
        return classes.numpy(), logits.shape[-1]

    def _advance(self, move: Callable[[tf.Tensor, tf.Tensor, Draws], tf.Tensor]) -> Any:
        """A function of so many steps, made of one that is compiled once for all batches.

        It takes images, classes, the number of the first step, how many steps to make and the
        position of the first image, and returns images, scores and gradient norms [batch, steps].
        Nothing returns to the host between steps. A loop inside the graph takes a quarter longer.
        """

        def step(x, classes, i, offset):
            probe = self._probe(x)
            gradient = tf.cast(probe.input_gradient(classes), x.dtype)
            score = tf.cast(probe.score(classes), x.dtype)
            norm = tf.sqrt(tf.reduce_sum(gradient**2, range(1, x.shape.rank)))
            return _clipped(move(x, gradient, Draws(i, offset)), self.limits), score, norm

        scalars = [tf.TensorSpec([], tf.int32) for _ in range(2)]
        signature = [self.spec, tf.TensorSpec([None], tf.int32), *scalars]
        compiled = tf.function(step, input_signature=signature, autograph=False)

        def advance(images, classes, first, count, offset):
            x, classes, offset = (tf.constant(value) for value in (images, classes, offset))
            traces = []
            for i in range(first, first + count):
                x, *trace = compiled(x, classes, tf.constant(i), offset)
                traces.append(trace)
            scores, norms = (tf.stack(trace, axis=1) for trace in zip(*traces, strict=True))
            return x, scores, norms

        return advance


def _perturbed(
    images: np.ndarray, spread: float, limits: starting_images.Limits, seed: int, stream: int
) -> np.ndarray:
    """Images under Gaussian noise of their own, clipped, in their own dtype."""
    result = np.empty(images.shape, images.dtype)
    size = max(1, _PART // math.prod(images.shape[1:]))
    for first in range(0, len(images), size):
        x = tf.constant(images[first : first + size])
        z = Draws(offset=first).normal(x, 1, seed, stream)[0]
        result[first : first + size] = _clipped(x + spread * z, limits)
    return result


def _clipped(x: tf.Tensor, limits: starting_images.Limits) -> tf.Tensor:
    if limits is None:
        return x
    low, high = (tf.cast(limit, x.dtype) for limit in limits)
    return tf.clip_by_value(x, low, high)


def _check_finite(
    images: np.ndarray, scores: np.ndarray, norms: np.ndarray, first: int, step_size: float
) -> None:
    """Refuse steps that diverged; clipping hides it in the images, not in the traces."""
    fine = np.isfinite(scores).all(axis=0)
    fine[: norms.shape[1]] &= np.isfinite(norms).all(axis=0)
    if fine.all() and np.isfinite(images).all():
        return
    step = first + (norms.shape[1] if fine.all() else int(fine.argmin()))
    raise NonFiniteError(
        f"step_size: got {step_size:g}; at step {step} an image, its score or its gradient is "
        "NaN or infinite. Try a smaller step_size, or bounds=(0.0, 1.0)."
    )
