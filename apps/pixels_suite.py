"""The suite of apps.benchmark on pixel perturbation: what it adds to its forward passes."""

import functools

import numpy as np
import tensorflow as tf

from apps import timing
from tfgrad import evaluation

FRACTIONS = (5, 25, 100)
BOUND = 1.15
# Fractions × batches of a timed call; one more batch is for tracing, which is taken off and must be
# short beside the rest.
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
        whole, one = (
            timing.seconds(functools.partial(perturb, network, images, count, n))
            for n in (batches + 1, 1)
        )
        return (whole - one) / batches

    found = {}
    for count in FRACTIONS:
        bare = functools.partial(passes, count)
        found[_passes(count)] = functools.partial(timing.seconds, bare)
        found[title(count)] = functools.partial(test, count)
    return found


def perturb(network, images, count, batches):
    """Pixel perturbation at so many fractions, on the same images several times."""
    labels = np.arange(len(images), dtype=np.int32) % network.output_shape[-1]
    maps = np.random.default_rng(0).normal(size=images.shape[:3])
    dataset = tf.data.Dataset.from_tensors((images, labels)).repeat(batches)
    fractions = np.linspace(0, 1, count)
    evaluation.pixel_perturbation(network, dataset, np.tile(maps, (batches, 1, 1)), fractions)


def _passes(count):
    return f"{count + 1} forward passes"
