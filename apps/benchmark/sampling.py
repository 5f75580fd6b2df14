"""Costs of sampling, in units of bare input-gradients."""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import sampling

from . import timing

STEPS = 50
GRADIENTS = f"{STEPS} input-gradients"
BARE = {"gradient ascent": GRADIENTS, "Langevin": GRADIENTS}
BOUNDS = {"gradient ascent": 1.1}


def measured(network: keras.Model, images: tf.Tensor, rounds: int) -> tuple[dict[str, Any], str]:
    """Times of samplers and of bare gradients, and their table."""
    rows = timing.against(functions(network, images), BARE, BOUNDS, rounds, "density")
    return {"density": rows}, timing.table(rows)


def functions(network: keras.Model, images: tf.Tensor) -> dict[str, Callable[[], float]]:
    """Functions that return their seconds without tracing, once their numbers can be read."""
    labels = np.arange(len(images), dtype=np.int32) % network.output_shape[-1]

    @tf.function
    def gradient(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.gather(network(x, training=False), labels, batch_dims=1)
        return tape.gradient(score, x)

    def gradients() -> np.ndarray:
        for _ in range(STEPS):
            found = gradient(images)
        return found.numpy()

    def second_half(rule: Callable[..., Any], **options: Any) -> float:
        """Seconds of the second half of a call; the first includes tracing."""
        laps: list[float] = []
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
