"""Accuracy under Gaussian input noise (thesis Table 2.2)."""

import functools

import numpy as np
import tensorflow as tf

from tfgrad.evaluation.batches import (
    check_finite,
    noise_levels,
    one_by_one,
    per_image,
    placed,
    where_finite,
)
from tfgrad.evaluation.measurement import HIGHER, Measurement
from tfgrad.gradients import targets
from tfgrad.internal.arguments import integer
from tfgrad.internal.stateless_noise import Draws

SIGMAS = (0.0, 0.1, 0.2, 0.3, 0.4)

# A measurement of this test, made now or read from a record.
measured = functools.partial(
    Measurement,
    name="accuracy under input noise",
    score="accuracy",
    direction=HIGHER,
    along="noise σ",
    percent=True,
)


def noise_robustness(network, batches, sigmas=SIGMAS, repeats=3, seed=0) -> Measurement:
    """Accuracy of a classifier on x + η, η ~ N(0, σ²I), without clipping; higher is better.

    Args:
        network: a Keras model from images [batch, …] to logits [batch, classes].
        batches: a data set of (images, integer labels), as the network takes them: σ is in the
            units of these images, normalised ones in Table 2.2.
        sigmas: noise levels from 0 up.
        repeats: noise draws per image.
        seed: of the noise; the same for every model, so that models are compared on equal images.

    Returns:
        The accuracy in [0, 1] at each σ, its mean and deviation over the draws.

    Raises:
        ArgumentError: a σ is negative or NaN, there is no σ, no repeat or no batch, or batches are
            no pairs of images that the network takes and integer labels.
        DataError: a label is no class of the network.
        NonFiniteError: a logit is NaN or infinite.
    """
    sigmas, repeats = noise_levels(sigmas), integer("repeats", repeats)
    levels = tf.constant(sigmas, tf.float32)

    def correct(x, y, first):
        """1 where an image is classified rightly, else 0: float32 [batch, repeats, σ]."""

        def of(repeat):
            noise = Draws(repeat, first).normal(x, 1, seed)[0]

            def at(sigma):
                logits = network(x + tf.cast(sigma, x.dtype) * noise, training=False)
                right = targets.classes("label", logits, y)
                hit = tf.cast(tf.equal(tf.argmax(logits, -1, tf.int32), right), tf.float32)
                return where_finite(hit, logits)

            return one_by_one(at, levels, tf.float32)

        return tf.transpose(one_by_one(of, tf.range(repeats), tf.float32), [2, 0, 1])

    hits = per_image(correct, placed(batches, network))
    check_finite(hits, "network: the logits")
    counts = hits.sum(0, dtype=np.float64)
    return measured(
        values=tuple((counts.mean(0) / len(hits)).tolist()),
        deviations=tuple((counts.std(0) / len(hits)).tolist()),
        over=f"{repeats} noise draws",
        points=sigmas,
        examples=len(hits),
        seed=seed,
    )
