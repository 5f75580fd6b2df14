"""The suite of apps.benchmark on sampling: what it adds to bare input-gradients."""

import time

import numpy as np
import tensorflow as tf

from tfgrad import sampling

from . import timing

STEPS = 50
GRADIENTS = f"{STEPS} input-gradients"
BARE = {"gradient ascent": GRADIENTS, "Langevin": GRADIENTS}
BOUNDS = {"gradient ascent": 1.1}


def measured(network, images, rounds):
    """Times of both sides, interleaved: {name: row}."""
    return timing.against(functions(network, images), BARE, BOUNDS, rounds, "density")


def functions(network, images):
    """Each returns its seconds, tracing left out, and ends when its numbers are there."""
    labels = np.arange(len(images), dtype=np.int32) % network.output_shape[-1]

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.gather(network(x, training=False), labels, batch_dims=1)
        return tape.gradient(score, x)

    def gradients():
        for _ in range(STEPS):
            found = gradient(images)
        return found.numpy()

    def second_half(rule, **options):
        """A call traces anew; its second half does what later steps do."""
        laps = []
        rule(
            network,
            labels,
            images.numpy(),
            steps=2 * STEPS,
            batch_size=len(images),
            every=STEPS,
            on_step=lambda *_: laps.append(time.perf_counter()),
            **options,
        )
        return laps[1] - laps[0]

    return {
        GRADIENTS: lambda: timing.seconds(gradients),
        "gradient ascent": lambda: second_half(sampling.gradient_ascent),
        "Langevin": lambda: second_half(sampling.langevin, step_size=1e-6),
    }
