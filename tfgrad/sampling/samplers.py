"""Images of high implicit density: modes by gradient ascent, samples by Langevin dynamics.

The logit f_y of a classifier is log p(x, y) up to a constant (thesis §5.3), so its gradient with
respect to the input is the score ∇x log p(x | y). Both rules follow it from many start images:

    start = sampling.noise(64, (32, 32, 3), seed=1)
    samples = sampling.gradient_ascent(model, 3, start)
    samples.images                      # [64, 32, 32, 3]
    samples.scores[:, [0, -1]]          # the logit before and after

The GAN-test of `tfgrad.evaluation` measures whether another network recognises such images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.internal.arguments import integer, number
from tfgrad.internal.stateless_noise import Draws
from tfgrad.sampling.bounds import broadcast
from tfgrad.sampling.chain import Chain, Samples
from tfgrad.sampling.starting_images import STEPS


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
    outputs: Any = None,
) -> Samples:
    """Maximise the logit by gradient ascent: x ← clip(x + α (∇x f_y(x) − c (x − x₀))).

    This is activity maximisation: it finds modes of p(x | y) and does not sample. Clipping is in
    the preprint; the pull towards mid-grey, the gradient of −c/2 ‖x − x₀‖², is in the published
    code. The defaults are those of the papers' GAN-test; their "denoising" starts from `noised`
    images, with 200 steps of 0.01 and no pull.

    Args:
        model: A built Keras model with one float input that returns logits [batch, classes]. It
            runs in inference mode, half precision in float32, and is not modified.
        target: The class of all images, ints [n], or "predicted": the class of the start image.
        start: Float images [n, …] as the model takes them, within `bounds`. Steps that the model
            masks do not move.
        steps: Number of steps.
        step_size: Step size α > 0.
        pull: Strength of the pull, c ≥ 0.
        centre: x₀, a number or an array that broadcasts against an image, such as one number per
            channel of normalised images.
        bounds: (lowest, highest), each like `centre`; None clips nothing.
        batch_size: Number of images per batch; it bounds memory and changes results by rounding
            only.
        every: Number of steps between two calls of `on_step`, and between two checks for NaN.
        on_step: Called with the number of completed steps and a copy of all images.
        progress: Called with the number of completed updates of single images and their total.
        outputs: What the model's outputs mean: `"exclusive"`, `"binary"` (one logit f of class 1,
            −f of class 0), `"independent"` or `"regression"`; None for what its compiled loss says.
            See `tfgrad.models.output_meaning`.

    Raises:
        ArgumentError: The model is not a Keras model, or has several inputs or an integer one; the
            images are not floats, lie outside the bounds or do not fit the model; the class does
            not exist; a number is out of its range.
        DataError: A start image holds NaN or infinite pixels.
        ModelError: The model is not built, or does not return finite logits.
        NonFiniteError: An image, score or gradient became NaN or infinite.

    Source: preprint §4.2.1, thesis §5.4.1.
    """
    alpha, strength = number("step_size", step_size), number("pull", pull, zero=True)
    chain = Chain(model, start, bounds, outputs)
    middle = broadcast("centre", centre, chain.shape)

    def rule(x: tf.Tensor, gradient: tf.Tensor, draws: Draws) -> tf.Tensor:
        return x + alpha * (gradient - strength * (x - tf.cast(middle, x.dtype)))

    settings = {"rule": "gradient_ascent", "step_size": alpha, "pull": strength}
    settings["centre"] = middle.tolist()
    return chain.run(rule, target, steps, batch_size, every, on_step, progress, settings)


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
    outputs: Any = None,
) -> Samples:
    """Unadjusted Langevin dynamics: x ← x + ε ∇x f_y(x) + √(2ε) z, z ~ N(0, I).

    Samples p(x | y) in the limit of many small steps. A fixed step size leaves a bias: on a
    Gaussian of variance s² the variance of the samples is s² / (1 − ε / (2s²)). The sign of −ε∇ in
    thesis §1.5.1 is a misprint, which would decrease the density. The noise of image i depends on
    (seed, step, i) only, whatever the batch size.

    Args:
        model, target, start: See `gradient_ascent`.
        steps: Number of steps.
        step_size: Step size ε > 0.
        seed: Seed of the noise, integer ≥ 0.
        bounds: (lowest, highest) to clip every iterate to, or None. Clipping is not part of the
            dynamics: samples accumulate at the bounds and are biased.
        batch_size, every, on_step, progress, outputs: See `gradient_ascent`.

    Raises:
        ArgumentError, DataError, ModelError, NonFiniteError: See `gradient_ascent`.

    Source: thesis §1.5.1; Welling and Teh, ICML 2011.
    """
    epsilon, seed = number("step_size", step_size), integer("seed", seed, lowest=0)
    sigma = math.sqrt(2 * epsilon)

    def rule(x: tf.Tensor, gradient: tf.Tensor, draws: Draws) -> tf.Tensor:
        return x + epsilon * gradient + sigma * draws.normal(x, 1, seed, STEPS)[0]

    settings = {"rule": "langevin", "step_size": epsilon, "seed": seed}
    chain = Chain(model, start, bounds, outputs)
    return chain.run(rule, target, steps, batch_size, every, on_step, progress, settings)
