"""The suite of apps.benchmark on sampling and pixel perturbation: what they add to bare calls."""

import time

import numpy as np
import tensorflow as tf

from apps import timing
from tfgrad import evaluation, sampling

STEPS, FRACTIONS = 50, 25
# Sampling in units of as many input-gradients, the pixel test in units of its forward passes.
BOUNDS = {"gradient ascent": 1.1, "Langevin": None, "pixel perturbation": 1.15}
BARE = {
    "gradient ascent": f"{STEPS} input-gradients",
    "Langevin": f"{STEPS} input-gradients",
    "pixel perturbation": f"{FRACTIONS + 1} forward passes",
}


def measured(network, images, rounds):
    """Times of both sides, interleaved: {name: row}."""
    times: dict[str, list[float]] = {name: [] for name in (*BARE, *BARE.values())}
    found = functions(network, images)
    for function in found.values():
        function()
    for done in range(rounds):
        for name, function in found.items():
            times[name].append(function())
        print(f"\rdensity: round {done + 1} of {rounds}", end="", flush=True)
    print()
    return {
        name: timing.row(times[name], times[bare], BOUNDS.get(name))
        for name, bare in ({b: b for b in BARE.values()} | BARE).items()
    }


def functions(network, images):
    """Each returns its seconds, tracing left out, and ends when its numbers are there."""
    labels = np.arange(len(images), dtype=np.int32) % network.output_shape[-1]
    fractions = np.linspace(0, 1, FRACTIONS)
    maps = np.random.default_rng(0).normal(size=images.shape[:3])

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.gather(network(x, training=False), labels, batch_dims=1)
        return tape.gradient(score, x)

    forward = tf.function(lambda x: network(x, training=False), autograph=False)

    def repeated(function, count):
        def run():
            for _ in range(count):
                result = function(images)
            return result.numpy()

        return lambda: timing.seconds(run)

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

    def pixels(count):
        batches = tf.data.Dataset.from_tensors((images, labels)).repeat(count)
        ranked = np.tile(maps, (count, 1, 1))
        return timing.seconds(
            lambda: evaluation.pixel_perturbation(network, batches, ranked, fractions)
        )

    return {
        BARE["gradient ascent"]: repeated(gradient, STEPS),
        "gradient ascent": lambda: second_half(sampling.gradient_ascent),
        "Langevin": lambda: second_half(sampling.langevin, step_size=1e-6),
        BARE["pixel perturbation"]: repeated(forward, FRACTIONS + 1),
        # Nine batches less one: what eight cost once the test is traced.
        "pixel perturbation": lambda: (pixels(9) - pixels(1)) / 8,
    }


def table(rows):
    """Markdown."""
    lines = ["| what | ms | ratio | quartiles | bound |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        low, high = row["ratio_quartiles"]
        lines.append(
            f"| {name} | {row['median_ms']} | {row['ratio']} | {low} to {high} "
            f"| {row['bound'] or ''} |"
        )
    return "\n".join(lines)
