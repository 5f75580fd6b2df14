"""The suite of apps.benchmark on pixel perturbation: what it adds to its forward passes."""

import functools
import time

import numpy as np
import tensorflow as tf

from tfgrad import evaluation

from . import timing

FRACTIONS = (5, 25, 100)
BOUND = 1.15
# Fractions × batches of a timed call; one more batch comes first, to trace, and is not timed.
LENGTH = 400


def title(count):
    """What a table calls the test at so many fractions."""
    return f"pixel perturbation, {count} fractions"


def measured(network, images, rounds):
    """Times of both sides, interleaved: {name: row}."""
    bare = {title(count): _passes(count) for count in FRACTIONS}
    bounds = dict.fromkeys(bare, BOUND)
    return timing.against(functions(network, images), bare, bounds, rounds, "pixels")


def functions(network, images):
    """Each returns its seconds per batch, tracing left out."""
    forward = tf.function(lambda x: network(x, training=False), autograph=False)

    def passes(count):
        for _ in range(count + 1):
            found = forward(images)
        return found.numpy()

    def test(count):
        batches = LENGTH // count
        stream = Repeated(images, batches + 1)
        perturb(network, stream, count)
        return (time.perf_counter() - stream.second) / batches

    found = {}
    for count in FRACTIONS:
        bare = functools.partial(passes, count)
        found[_passes(count)] = functools.partial(timing.seconds, bare)
        found[title(count)] = functools.partial(test, count)
    return found


class Repeated:
    """The same images several times, all of the first class, as a data set.

    Attributes:
        second: when the second batch was asked for, by `time.perf_counter`; NaN before that.
    """

    def __init__(self, images, batches):
        self.images, self.batches, self.second = tf.constant(images), batches, np.nan

    def __iter__(self):
        labels = tf.zeros([len(self.images)], tf.int32)
        for batch in range(self.batches):
            if batch == 1:
                self.second = time.perf_counter()
            yield self.images, labels


def perturb(network, stream, count):
    """Pixel perturbation at so many fractions."""
    maps = np.random.default_rng(0).normal(size=stream.images.shape[:3])
    maps = np.tile(maps, (stream.batches, 1, 1))
    evaluation.pixel_perturbation(network, stream, maps, np.linspace(0, 1, count))


def _passes(count):
    return f"{count + 1} forward passes"
