"""Accuracy under Gaussian input noise (thesis Table 2.2)."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfgrad.draws import Draws
from tfgrad.errors import ArgumentError

SIGMAS = (0.0, 0.1, 0.2, 0.3, 0.4)


@dataclasses.dataclass(frozen=True)
class NoiseRobustness:
    """Accuracy at each noise level; higher is better.

    Attributes:
        accuracy: σ → (mean, standard deviation) over the repeats, in [0, 1].
        repeats: noise draws per image; σ = 0 needs one.
        seed: of the noise.
    """

    accuracy: Mapping[float, tuple[float, float]]
    repeats: int
    seed: int

    @staticmethod
    def markdown(rows: Mapping[str, "NoiseRobustness"]) -> str:
        """A table with a row per model: accuracy in %, ± deviation over the noise draws.

        Raises:
            ArgumentError: there is no row, or one has other noise levels than the first.
        """
        if not rows:
            raise ArgumentError("rows: got none; expected {name: NoiseRobustness}.")
        sigmas = list(next(iter(rows.values())).accuracy)
        for name, row in rows.items():
            if list(row.accuracy) != sigmas:
                raise ArgumentError(
                    f"rows: {name!r} has σ = {list(row.accuracy)}, the first row {sigmas}; "
                    "expected the same noise levels in every row."
                )
        lines = [
            "| noise σ → | " + " | ".join(f"{s:g}" for s in sigmas) + " |",
            "|---" * (len(sigmas) + 1) + "|",
        ]
        for name, row in rows.items():
            cells = [
                f"{100 * mean:.2f}" + (f" ± {100 * dev:.2f}" if s > 0 else "")
                for s, (mean, dev) in row.accuracy.items()
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def noise_robustness(network, batches, sigmas=SIGMAS, repeats=3, seed=0) -> NoiseRobustness:
    """Accuracy of a classifier on x + η, η ~ N(0, σ²I), without clipping.

    Args:
        network: a Keras model from images [batch, …] to logits [batch, classes].
        batches: a data set of (images, integer labels), as the network takes them: σ is in the
            units of these images, normalised ones in Table 2.2.
        sigmas: noise levels from 0 up.
        repeats: noise draws per image.
        seed: of the noise; the same for every model, so that models are compared on equal images.

    Raises:
        ArgumentError: a σ is negative or NaN, or there is no σ, no repeat or no batch.
    """
    sigmas = list(sigmas)
    if not sigmas or not all(0 <= s < float("inf") for s in sigmas):
        raise ArgumentError(f"sigmas: got {sigmas}; expected numbers from 0 up.")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ArgumentError(f"repeats: got {repeats!r}; expected a whole number from 1 up.")
    if iter(batches) is batches:
        raise ArgumentError(
            "batches: got an iterator, which can be read only once; expected a data set of "
            "(images, labels) batches, e.g. tfgrad.data.pipeline(..., training=False)."
        )
    levels = tf.constant(sigmas, tf.float32)

    @tf.function(reduce_retracing=True)
    def correct(x, y, repeat, offset):
        noise = Draws(repeat, offset).normal(x, 1, seed)[0]

        def at(sigma):
            logits = network(x + tf.cast(sigma, x.dtype) * noise, training=False)
            hits = tf.equal(tf.argmax(logits, -1, tf.int32), tf.cast(y, tf.int32))
            return tf.reduce_sum(tf.cast(hits, tf.int32))

        return tf.map_fn(at, levels, fn_output_signature=tf.int32)

    hits, count = np.zeros((repeats, len(levels))), 0
    for repeat in range(repeats):
        count = 0
        for x, y in batches:
            hits[repeat] += correct(x, y, tf.constant(repeat), tf.constant(count)).numpy()
            count += int(x.shape[0])
    if not count:
        raise ArgumentError("batches: got an empty data set; expected (images, labels) batches.")
    rates = hits / count
    rows = zip(sigmas, rates.mean(0), rates.std(0), strict=True)
    return NoiseRobustness({float(s): (float(m), float(d)) for s, m, d in rows}, repeats, seed)
