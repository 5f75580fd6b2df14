"""Measure the costs of penalties and explanations as ratios of compiled steps.

    python -m apps.benchmark
    python -m apps.benchmark --network=vgg11 --width=0.25 --batch_size=128 --rounds=30
    python -m apps.benchmark --suite=maps --models=vit --rounds=15
    python -m apps.benchmark --suite=start --models=MobileNetV2 --parts=nodes,maps

Every round times each variant once, in turn, and every ratio is taken within its round, so that a
machine whose speed drifts affects all variants alike; medians over the rounds are reported. Peak
memory is that of a separate process per variant (of the GPU, where there is one).

Writes JSON to --out, and prints a table.

--suite=training compares steps with penalties with the plain step, which is stock Keras training of
the same network; the matching steps include a teacher of the same architecture. --variants selects
some of them. --suite=maps compares FullGrad with the input-gradient on networks with random
weights: in this process, where the input-gradient is a stock gradient tape in a tf.function, and
through the signatures of an exported SavedModel that was loaded back; and maps of a contrast and of
another scalar with those of a class. It also takes the peak memory
of noise-averaged methods for each of --samples, which should be the same. --suite=density compares
50 steps of gradient ascent with 50 bare input-gradients. --suite=pixels compares pixel perturbation
at 5, 25 and 100 fractions with its forward passes, and takes the peak memory of each, which should
be the same.

--suite=start measures what users wait for before anything has run, for each of --models, which here
may be names of keras.applications and of tfgrad.models, too: the nodes in the graph of FullGrad and
the time of the first map, compared with a stock input-gradient; export.save, of the default methods
and of five, and tf.saved_model.load of what it wrote, compared with Keras's export; and the
construction of a PenalizedModel with its first step of fit, compared with stock Keras, beside a
double backward pass written by hand. Each figure is that of a new process, whose network is built
before the clock starts; the processes take turns in --rounds. --parts selects some of these. After
each part, what is measured so far is written to --out.

--suite=portable exports explanations of --models as LiteRT, ONNX and OpenVINO files and runs each
in a process of its runtime alone: the largest error against the live map, the size of the files,
and the time of a request against TensorFlow's SavedModel; the runtimes take turns in --rounds.

Exit codes: 0 done, 64 usage, 65 a network of --suite=start cannot be measured.
"""

from ..common import command, shared_flags

# isort: split
import json
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tfgrad import models
from tfgrad.errors import ArgumentError
from tfgrad.internal import files
from tfgrad.internal.arguments import one_of
from tfgrad.loading.applications import APPLICATIONS

from ..common import architectures, terminal, work_directory
from . import (
    first_calls,
    pixel_perturbation,
    portable_formats,
    saliency_maps,
    sampling,
    starts,
    timing,
    training_steps,
)

FLAGS = flags.FLAGS
# What a flag that is left out means, by suite.
DEFAULTS: dict[str, dict[str, Any]] = {
    "training": {"side": 32, "batch_size": 64, "rounds": 15},
    "maps": {
        "side": 224,
        "batch_size": 8,
        "rounds": 7,
        "models": list(saliency_maps.NETWORKS),
    },
    "density": {"side": 32, "batch_size": 64, "rounds": 9},
    "pixels": {"side": 32, "batch_size": 64, "rounds": 5},
    "portable": {
        "side": 64,
        "batch_size": 1,
        "rounds": 15,
        "models": list(portable_formats.NETWORKS),
    },
    "start": {"side": 96, "batch_size": 2, "rounds": 3, "models": list(starts.NETWORKS)},
}


def define_flags() -> None:
    """Define all flags of this command."""
    shared_flags.define_network("vgg9")
    flags.DEFINE_enum("suite", "training", list(DEFAULTS), "What is measured.")
    for name, what in (
        ("side", "Height and width of the images"),
        ("batch_size", "Examples per step"),
        ("rounds", "Number of timed rounds"),
    ):
        values = ", ".join(f"{d[name]} of {suite}" for suite, d in DEFAULTS.items())
        flags.DEFINE_integer(name, None, f"{what}; default: {values}.", lower_bound=1)
    flags.DEFINE_list(
        "variants",
        list(training_steps.VARIANTS),
        "Steps of --suite=training that are compared with the plain one.",
    )
    flags.DEFINE_integer(
        "fit_steps", 10, "Number of steps in each timed pass of fit.", lower_bound=1
    )
    known = {suite: ",".join(d["models"]) for suite, d in DEFAULTS.items() if "models" in d}
    flags.DEFINE_list(
        "models",
        None,
        f"Networks of --suite=maps (default: {known['maps']}) and of --suite=start (default: "
        f"{known['start']}).",
    )
    flags.DEFINE_list("parts", list(first_calls.PARTS), "What --suite=start measures.")
    flags.DEFINE_list(
        "samples", ["5", "50"], "Numbers of samples for which --suite=maps takes the peak memory."
    )
    flags.DEFINE_string("out", "runs/benchmark.json", "JSON file to write.")
    flags.DEFINE_string(
        "memory_of", None, "Print only the peak memory of this variant; for the command itself."
    )
    flags.DEFINE_string(
        "start_of", None, "Print only the figures of this first call; for the command itself."
    )
    flags.DEFINE_string("start_path", None, "Where --start_of writes an export, or loads one.")


def main() -> dict[str, Any] | None:
    """Measure, print and write."""
    for name, value in DEFAULTS[FLAGS.suite].items():
        if getattr(FLAGS, name) is None:
            setattr(FLAGS, name, value)
    samples = shared_flags.numbers("samples", int)
    for flag, known in (
        ("models", _known_models()),
        ("variants", training_steps.VARIANTS),
        ("parts", first_calls.PARTS),
    ):
        for name in getattr(FLAGS, flag) or ():
            one_of(f"--{flag}", name, known)
    if FLAGS.memory_of:
        print(json.dumps(_memory_of(FLAGS.memory_of)))
        return None
    images = _images(FLAGS.batch_size)
    if FLAGS.start_of:
        print(json.dumps(starts.figures_of(FLAGS.start_of, FLAGS.start_path, _network, images)))
        return None
    measured, table = _measured(images, samples)
    result = _written(measured)
    terminal.show(f"\n{table}\n\nwritten to {FLAGS.out}")
    return result


def _known_models() -> tuple[str, ...]:
    """The names that --models may hold."""
    if FLAGS.suite in ("start", "portable"):
        return (*saliency_maps.NETWORKS, *models.NAMES, *APPLICATIONS)
    return tuple(saliency_maps.NETWORKS)


def _measured(images: tf.Tensor, samples: list[int]) -> tuple[dict[str, Any], str]:
    """(what the JSON file records of --suite, the table)."""
    if FLAGS.suite == "start":
        return starts.measured(FLAGS.models, FLAGS.parts, FLAGS.rounds, _written)
    if FLAGS.suite == "portable":
        return portable_formats.measured(FLAGS.models, _network, images, FLAGS.rounds, _written)
    if FLAGS.suite == "maps":
        return saliency_maps.measured(FLAGS.models, images, samples, FLAGS.rounds)
    if FLAGS.suite == "training":
        record, table = training_steps.measured(
            _network, (images, _labels()), FLAGS.variants, FLAGS.rounds, FLAGS.fit_steps
        )
    else:
        keras.utils.set_random_seed(0)
        suites = {"density": sampling.measured, "pixels": pixel_perturbation.measured}
        record, table = suites[FLAGS.suite](_network(), images, FLAGS.rounds)
    return {"network": FLAGS.network, "width": FLAGS.width, **record}, table


def _written(measured: dict[str, Any]) -> dict[str, Any]:
    """The record of what was measured, which --out holds afterwards."""
    result = {
        "batch_size": FLAGS.batch_size,
        "side": FLAGS.side,
        "rounds": FLAGS.rounds,
        **measured,
        "versions": work_directory.versions(),
        "cores": os.cpu_count(),
    }
    if os.path.dirname(FLAGS.out):
        os.makedirs(os.path.dirname(FLAGS.out), exist_ok=True)
    files.write_json(FLAGS.out, result)
    return result


def _memory_of(variant: str) -> int:
    """The peak memory of this process after running a training step, a test or a map's method."""
    counts = {pixel_perturbation.title(count): count for count in pixel_perturbation.FRACTIONS}
    if variant in counts:
        stream = pixel_perturbation.Repeated(_images(FLAGS.batch_size), 1)
        pixel_perturbation.perturb(_network(), stream, counts[variant])
        return timing.peak_megabytes()
    if variant in training_steps.VARIANTS:
        step = training_steps.step(variant, _network, (_images(FLAGS.batch_size), _labels()))
        for _ in range(3):
            step()
        return timing.peak_megabytes()
    model, _, rest = variant.partition(":")
    method, _, samples = rest.partition(":")
    known = model in saliency_maps.NETWORKS and method in saliency_maps.AVERAGED
    if not known or not samples.isdecimal():
        raise ArgumentError(
            f"--memory_of: got {variant!r}; expected one of {', '.join(training_steps.VARIANTS)}, "
            "or MODEL:METHOD:SAMPLES such as vit:smoothgrad:50."
        )
    images = _images(saliency_maps.MEMORY_BATCH)
    saliency_maps.average(model, method, int(samples), images)
    return timing.peak_megabytes()


def _network(name: str | None = None) -> keras.Model:
    """A network of that name, or that of the flags, on `side`×`side` colour images."""
    if name is not None and name in saliency_maps.NETWORKS:
        return saliency_maps.NETWORKS[name](FLAGS.side)
    if name is not None and name in APPLICATIONS:
        return architectures.application(name, FLAGS.side, classes=10)
    return models.get(
        name or FLAGS.network,
        (FLAGS.side, FLAGS.side, 3),
        10,
        width=FLAGS.width,
        activation=FLAGS.activation,
        beta=FLAGS.beta,
        batch_norm=FLAGS.batch_norm,
    )


def _labels() -> tf.Tensor:
    labels = np.random.default_rng(1).integers(0, 10, FLAGS.batch_size)
    return tf.constant(labels, tf.int32)


def _images(count: int) -> tf.Tensor:
    random = np.random.default_rng(0)
    return tf.constant(random.uniform(size=(count, FLAGS.side, FLAGS.side, 3)), tf.float32)


if __name__ == "__main__":
    define_flags()
    command.run(main)
