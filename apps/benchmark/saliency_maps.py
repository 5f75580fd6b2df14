"""Costs of FullGrad, live and exported, and of targets; memory of averaging."""

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import export, loading, saliency, targets

from ..common import architectures
from . import timing

# FullGrad in units of the input-gradient, live and exported.
BOUNDS = {"vgg16_bn": 1.2, "efficientnetv2b0": 1.5, "vit": 2.0}
# The map of a target in units of that of a class.
TARGET_BOUND = 1.05
NETWORKS: dict[str, Callable[[int], keras.Model]] = {
    "vgg16_bn": architectures.vgg16_bn,
    "efficientnetv2b0": lambda side: keras.applications.EfficientNetV2B0(
        weights=None,
        classifier_activation=None,
        include_preprocessing=False,
        input_shape=(side, side, 3),
    ),
    "vit": architectures.vit,
}
AVERAGED = {"smoothgrad": saliency.SmoothGrad, "smooth_fullgrad": saliency.SmoothFullGrad}
MEMORY_BATCH = 2


def measured(
    names: Sequence[str], images: tf.Tensor, samples: Sequence[int], rounds: int
) -> tuple[dict[str, Any], str]:
    """Times and peak memory of maps on some networks, and their table.

    Args:
        names: Names among `NETWORKS`.
        images: Square images to explain.
        samples: Numbers of samples of the averaged methods whose peak memory is taken.
        rounds: Number of timed rounds.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            print(f"{name}: building and exporting", flush=True)
            functions = _functions(name, images, directory)
            timing.compiled(functions, "input-gradient")
            times = timing.interleaved(functions, rounds, name)
        rows = {
            which: timing.row(times[which], times[base], bound)
            for which, base, bound in (
                ("input-gradient", "input-gradient", None),
                ("FullGrad", "input-gradient", BOUNDS[name]),
                ("InputGradient of a class", "input-gradient", None),
                ("of a contrast", "InputGradient of a class", TARGET_BOUND),
                ("of a scalar", "InputGradient of a class", TARGET_BOUND),
                ("exported input-gradient", "input-gradient", None),
                ("exported FullGrad", "exported input-gradient", BOUNDS[name]),
            )
        }
        found[name] = {"steps": timing.shown(rows)}
    for name in names:
        found[name]["peak_mb"] = {
            method: {str(n): timing.memory(f"{name}:{method}:{n}") for n in samples}
            for method in AVERAGED
        }
    return {"maps": found, "memory_batch_size": MEMORY_BATCH}, _table(found, bool(samples))


def average(name: str, method: str, samples: int, images: tf.Tensor) -> None:
    """Average maps over samples, so that the peak memory of this process can be read.

    Args:
        name: Name among `NETWORKS`.
        method: Name among `AVERAGED`.
        samples: Number of samples.
        images: Square images to explain.
    """
    AVERAGED[method](_random_network(name, images.shape[1]), samples=samples)(images)


def _random_network(name: str, side: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    return architectures.randomised(NETWORKS[name](side))


def _functions(name: str, x: tf.Tensor, directory: str) -> dict[str, Callable[[], np.ndarray]]:
    """The same maps in several ways; each function returns once its numbers can be read."""
    network = _random_network(name, x.shape[1])
    predicted = tf.fill([len(x)], -1)

    @tf.function
    def stock(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.reduce_max(network(x, training=False), -1)
        return tf.reduce_sum(tf.abs(tape.gradient(score, x)), -1)

    fullgrad = saliency.get("fullgrad")(network)
    gradient = saliency.get("input_gradient")(network)
    contrast = targets.Contrast()
    scalar = targets.Scalar(lambda outputs: tf.reduce_max(outputs, -1), "largest")
    names = ["input_gradient", "fullgrad"]
    path = export.save(network, directory, names, image_range=(0, 1), warmup=False)
    served = loading.load_served(path)
    # The signatures hold their variables weakly: `ask` keeps the served model alive.

    def ask(method: str) -> np.ndarray:
        return served.signatures[method](image=x, target=predicted)["saliency"].numpy()

    return {
        "input-gradient": lambda: stock(x).numpy(),
        "FullGrad": lambda: fullgrad(x).numpy(),
        "InputGradient of a class": lambda: gradient(x).numpy(),
        "of a contrast": lambda: gradient(x, contrast).numpy(),
        "of a scalar": lambda: gradient(x, scalar).numpy(),
        "exported input-gradient": lambda: ask("input_gradient"),
        "exported FullGrad": lambda: ask("fullgrad"),
    }


def _table(found: dict[str, dict[str, Any]], with_memory: bool) -> str:
    lines = [
        "| network | map | ms | ratio | quartiles | bound |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        lines += [
            f"| {name} | {which} {timing.cells(row)} |" for which, row in one["steps"].items()
        ]
    if with_memory:
        lines += ["", "| network | method | peak MB by samples |", "|---|---|---|"]
        for name, one in found.items():
            for method, peaks in one["peak_mb"].items():
                by_samples = ", ".join(f"{n}: {mb}" for n, mb in peaks.items())
                lines.append(f"| {name} | {method} | {by_samples} |")
    return "\n".join(lines)
