"""Accuracy under Gaussian input noise (thesis Table 2.2)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ImageRangeWarning
from tfgrad.evaluation.batches import (
    check_finite,
    noise_levels,
    one_by_one,
    per_image,
    placed,
    where_finite,
)
from tfgrad.evaluation.measurement import HIGHER, Measurement
from tfgrad.evaluation.network_tests.noisy_inputs import NoisyInputs
from tfgrad.gradients import class_scores, model_checks, output_heads
from tfgrad.internal.arguments import integer
from tfgrad.internal.stateless_noise import Draws
from tfgrad.models import output_meaning, pixel_range

SIGMAS = (0.0, 0.1, 0.2, 0.3, 0.4)

# Makes a measurement of this test, from new numbers or from those of a record.
measured = functools.partial(
    Measurement,
    name="accuracy under input noise",
    score="accuracy",
    direction=HIGHER,
    along="noise σ",
    percent=True,
)


@output_meaning.takes_outputs("network")
def noise_robustness(
    network: Any,
    batches: Any,
    sigmas: Iterable[float] = SIGMAS,
    repeats: int = 3,
    seed: int = 0,
    *,
    inputs: Any = None,
    outputs: Any = None,
) -> Measurement:
    """Accuracy of a classifier on x + η, η ~ N(0, σ²I), without clipping; higher is better.

    Steps that the network masks (`keras.layers.Masking`) get no noise, nor do token ids.

    Args:
        network: A Keras model from images [batch, …], or several inputs, to logits [batch,
            classes].
        batches: A data set of (images, integer labels), as the network takes them: σ is in the
            units of these images, normalised ones in Table 2.2.
        sigmas: Noise levels ≥ 0.
        repeats: Number of noise draws per image.
        seed: Seed of the noise; the same noise for every model, so that models are comparable.
        inputs: Keys or positions of the float inputs that get noise, of several; None for all.
        outputs: What the network's outputs mean: `"exclusive"`, `"binary"` (one logit of two
            classes), `"independent"` or `"regression"`; None for what its compiled loss says. See
            `tfgrad.models.output_meaning`.

    Returns:
        The accuracy in [0, 1] at each σ, its mean and standard deviation over the draws.

    Warns:
        ImageRangeWarning: The noise levels are the default ones, and the network takes pixels in
            a range ten times as wide as 0 to 1, or wider.

    Raises:
        ArgumentError: A σ is negative or NaN, there is no σ, no repeat or no batch, or batches are
            no pairs of images that the network takes and integer labels; or no input is of floats.
        DataError: A label is no class of the network.
        NonFiniteError: A logit is NaN or infinite.
    """
    network = model_checks.returning_logits(network)
    model_checks.check_preprocessed("network", network)
    if sigmas is SIGMAS:
        _warn_of_units(network)
    noises, repeats = noise_levels(sigmas), integer("repeats", repeats)
    levels = tf.constant(noises, tf.float32)

    def correct(x: tf.Tensor, y: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        """1 where an image is classified correctly, else 0: float32 [batch, repeats, σ]."""
        noisy_inputs = NoisyInputs(network, x, inputs)

        def hits_of(repeat: tf.Tensor) -> tf.Tensor:
            noise = noisy_inputs.noise(Draws(repeat, first), seed)

            def at(sigma: tf.Tensor) -> tf.Tensor:
                noisy = noisy_inputs.at(sigma, noise)
                logits = output_heads.logits(network, network(noisy, training=False))
                meaning = output_meaning.meaning(network, count=logits.shape[-1])
                hit = tf.cast(tf.equal(class_scores.predicted(logits, meaning), y), tf.float32)
                return where_finite(hit, logits)

            return one_by_one(at, levels, tf.float32)

        return tf.transpose(one_by_one(hits_of, tf.range(repeats), tf.float32), [2, 0, 1])

    hits = per_image(correct, placed(batches, network))
    check_finite(hits, "network: the logits")
    counts = hits.sum(0, dtype=np.float64)
    return measured(
        values=tuple((counts.mean(0) / len(hits)).tolist()),
        deviations=tuple((counts.std(0) / len(hits)).tolist()),
        over=f"{repeats} noise draws",
        points=noises,
        examples=len(hits),
        seed=seed,
    )


def _warn_of_units(network: Any) -> None:
    """Warn where the default noise levels are not seen, as those of pixels in 0 to 255."""
    found = pixel_range.wide_range(network)
    if found is None:
        return
    width = found[1] - found[0]
    wider = ", ".join(f"{width * sigma:g}" for sigma in SIGMAS)
    warnings.warn(
        f"sigmas: got the default ones, up to {max(SIGMAS):g}, for network {network.name!r}, whose "
        f"first operations take pixels in {found}; expected noise levels in these units; try "
        f"sigmas=({wider}).",
        ImageRangeWarning,
        stacklevel=5,
    )
