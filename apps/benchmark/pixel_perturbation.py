"""Cost of pixel perturbation, in units of its forward passes, and its peak memory."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import evaluation

from . import timing

FRACTIONS = (5, 25, 100)
BOUND = 1.15
# Fractions × batches of a timed call; an additional first batch, which traces, is not timed.
LENGTH = 400


def title(count: int) -> str:
    """The name of the test with `count` fractions, in tables and for --memory_of."""
    return f"pixel perturbation, {count} fractions"


def measured(network: keras.Model, images: tf.Tensor, rounds: int) -> tuple[dict[str, Any], str]:
    """Times of the test and of bare forward passes, the peak memory of the test, and a table."""
    bare = {title(count): _passes(count) for count in FRACTIONS}
    bounds = dict.fromkeys(bare, BOUND)
    rows = timing.against(functions(network, images), bare, bounds, rounds, "pixels")
    peaks = {count: timing.memory(title(count)) for count in FRACTIONS}
    shown = ", ".join(f"{peak} MB at {count}" for count, peak in peaks.items())
    text = f"{timing.table(rows)}\n\nPeak memory, by fractions: {shown}."
    return {"pixels": rows, "peak_mb": peaks}, text


def functions(network: keras.Model, images: tf.Tensor) -> dict[str, Callable[[], float]]:
    """Functions that return their seconds per batch without tracing."""
    forward = tf.function(lambda x: network(x, training=False), autograph=False)

    def passes(count: int) -> np.ndarray:
        for _ in range(count + 1):
            found = forward(images)
        return found.numpy()

    def test(count: int) -> float:
        batches = LENGTH // count
        stream = Repeated(images, batches + 1)
        perturb(network, stream, count)
        return (time.perf_counter() - stream.second) / batches

    found: dict[str, Callable[[], float]] = {}
    for count in FRACTIONS:
        bare = functools.partial(passes, count)
        found[_passes(count)] = functools.partial(timing.seconds, bare)
        found[title(count)] = functools.partial(test, count)
    return found


class Repeated:
    """The same images several times, all with label 0, as a data set.

    Args:
        images: Images of every batch.
        batches: Number of batches.

    Attributes:
        second: Time at which the second batch was read, by `time.perf_counter`; NaN before that.
    """

    def __init__(self, images: tf.Tensor, batches: int) -> None:
        self.images, self.batches, self.second = tf.constant(images), batches, np.nan

    def __iter__(self) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        labels = tf.zeros([len(self.images)], tf.int32)
        for batch in range(self.batches):
            if batch == 1:
                self.second = time.perf_counter()
            yield self.images, labels


def perturb(network: keras.Model, stream: Repeated, count: int) -> None:
    """Run pixel perturbation with `count` fractions of pixels."""
    maps = np.random.default_rng(0).normal(size=stream.images.shape[:3])
    maps = np.tile(maps, (stream.batches, 1, 1))
    evaluation.pixel_perturbation(network, stream, maps, np.linspace(0, 1, count))


def _passes(count: int) -> str:
    return f"{count + 1} forward passes"
