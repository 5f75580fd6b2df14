"""What penalties and explanations cost: ratios of compiled steps, measured in one run, interleaved.

    python -m apps.benchmark
    python -m apps.benchmark --network=vgg11 --width=0.25 --batch_size=128 --rounds=30
    python -m apps.benchmark --suite=maps --models=vit --rounds=15

Every round times each variant once, in turn, and every ratio is taken within its round, so that a
machine whose speed drifts drifts for all alike; medians over the rounds are reported. Peak memory
is that of a process of its own per variant (of the GPU, where there is one). Prints a table and
writes JSON to --out.

--suite=training compares steps with penalties with the plain step, which is stock Keras training of
the same network; in the matching steps a teacher of the same architecture runs along. --variants
picks some. --suite=maps compares FullGrad with the input-gradient on networks with random
weights: in this process, where the input-gradient is a stock gradient tape in a tf.function, and
through the signatures of an exported SavedModel that was loaded back. It also takes the peak memory
of noise-averaged methods for each of --samples, which should be the same. --suite=density compares
50 steps of gradient ascent with 50 bare input-gradients. --suite=pixels compares pixel perturbation
at 5, 25 and 100 fractions with its forward passes, and takes the peak memory of each, which should
be the same.

Exit codes: 0 done, 64 usage.
"""

from ..common import command, shared_flags

# isort: split
import json
import os
import tempfile
import warnings

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tfgrad import export, loading, models, penalties, saliency
from tfgrad.errors import ArgumentError, SecondOrderWarning
from tfgrad.internal import files

from ..common import architectures, compilation, work_directory
from . import pixel_perturbation, sampling, timing

FLAGS = flags.FLAGS
BOUNDS = {
    "gradient norm": 2.2,
    "score matching": 3.2,
    "both": 3.3,
    "matching": 2.9,
    "fit": 1.05,
}
# What bias-gradients and attention may add to a step that matches logits and input-gradients.
MORE_BOUND = 1.25
_MATCHED = ("conv1", "conv2", "conv3")
_MATCHED_MAPS = ("act1", "act2", "act3")


def _matching():
    return [penalties.ActivationMatching(1.0), penalties.JacobianMatching(1.0)]


VARIANTS = {
    "plain": list,
    "gradient norm": lambda: [penalties.GradientNorm(0.1)],
    "score matching": lambda: [penalties.ScoreMatching(1e-3)],
    "score matching, antithetic": lambda: [penalties.ScoreMatching(1e-3, estimator="antithetic")],
    "score matching, hutchinson": lambda: [penalties.ScoreMatching(1e-3, estimator="hutchinson")],
    "both": lambda: [penalties.GradientNorm(0.1), penalties.ScoreMatching(1e-3)],
    "matching": _matching,
    "matching + bias + attention": lambda: [
        *_matching(),
        penalties.BiasGradientMatching(1.0, _MATCHED),
        penalties.AttentionMatching(1.0, _MATCHED_MAPS),
    ],
}
# FullGrad in units of the input-gradient, here and exported.
MAPS_BOUNDS = {"vgg16_bn": 1.2, "efficientnetv2b0": 1.5, "vit": 2.0}
NETWORKS = {
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
# What a flag that is left out means, by suite.
DEFAULTS = {
    "training": {"side": 32, "batch_size": 64, "rounds": 15},
    "maps": {"side": 224, "batch_size": 8, "rounds": 7},
    "density": {"side": 32, "batch_size": 64, "rounds": 9},
    "pixels": {"side": 32, "batch_size": 64, "rounds": 5},
}


def define_flags():
    """All flags of this app."""
    shared_flags.define_network("vgg9")
    flags.DEFINE_enum("suite", "training", list(DEFAULTS), "What is measured.")
    for name, what in (
        ("side", "Height and width of the images"),
        ("batch_size", "Examples per step"),
        ("rounds", "Timed rounds"),
    ):
        values = " or ".join(str(d[name]) for d in DEFAULTS.values())
        flags.DEFINE_integer(name, None, f"{what}; default, by suite: {values}.", lower_bound=1)
    flags.DEFINE_list("variants", list(VARIANTS), "Steps of --suite=training beside the plain one.")
    flags.DEFINE_integer("fit_steps", 10, "Steps in each timed pass of fit.", lower_bound=1)
    flags.DEFINE_list("models", list(NETWORKS), "Networks of --suite=maps.")
    flags.DEFINE_list("samples", ["5", "50"], "Samples whose peak memory --suite=maps takes.")
    flags.DEFINE_string("out", "runs/benchmark.json", "Where the JSON goes.")
    flags.DEFINE_string("memory_of", None, "Print this variant's peak memory only.")


def main():
    """Measure, print, write."""
    for name, value in DEFAULTS[FLAGS.suite].items():
        if getattr(FLAGS, name) is None:
            setattr(FLAGS, name, value)
    samples = shared_flags.numbers("samples", int)
    for name in FLAGS.models:
        if name not in NETWORKS:
            raise ArgumentError(f"--models: got {name!r}; expected some of {', '.join(NETWORKS)}.")
    for name in FLAGS.variants:
        if name not in VARIANTS:
            raise ArgumentError(
                f"--variants: got {name!r}; expected some of {', '.join(VARIANTS)}."
            )
    if FLAGS.memory_of:
        print(json.dumps(_memory_of(FLAGS.memory_of)))
        return None
    measure = {
        "maps": lambda: _maps(samples),
        "training": _training,
        "density": _density,
        "pixels": _pixels,
    }
    measured, table = measure[FLAGS.suite]()
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
    print(table + f"\nwritten to {FLAGS.out}")
    return result


def _memory_of(variant):
    """The peak of this process once it has run a variant of training or a test, or made maps."""
    counts = {pixel_perturbation.title(count): count for count in pixel_perturbation.FRACTIONS}
    if variant in counts:
        stream = pixel_perturbation.Repeated(_images(FLAGS.batch_size), 1)
        pixel_perturbation.perturb(_network(), stream, counts[variant])
        return timing.peak_megabytes()
    if variant in VARIANTS:
        step = _step(_model(variant))
        for _ in range(3):
            step()
        return timing.peak_megabytes()
    model, _, rest = variant.partition(":")
    method, _, samples = rest.partition(":")
    if model not in NETWORKS or method not in AVERAGED or not samples.isdecimal():
        raise ArgumentError(
            f"--memory_of: got {variant!r}; expected one of {', '.join(VARIANTS)}, or "
            f"MODEL:METHOD:SAMPLES such as vit:smoothgrad:50."
        )
    AVERAGED[method](_random_network(model), samples=int(samples))(_images(MEMORY_BATCH))
    return timing.peak_megabytes()


# Training


def _training():
    # On a ReLU network score matching means nothing, and costs what it costs.
    warnings.simplefilter("ignore", SecondOrderWarning)
    steps = {}
    names = ["plain", *(name for name in VARIANTS if name in FLAGS.variants and name != "plain")]
    for name in names:
        print(f"compiling: {name}", flush=True)
        steps[name] = _step(_model(name))
        timing.seconds(steps[name])
    times = timing.interleaved(steps, FLAGS.rounds, "steps")
    variants = {
        name: timing.row(times[name], times["plain"], BOUNDS.get(name))
        | {"peak_mb": timing.memory(name)}
        for name in names
    }
    if {"matching", "matching + bias + attention"} <= set(names):
        more = times["matching + bias + attention"], times["matching"]
        variants["bias + attention, over matching"] = timing.row(*more, MORE_BOUND) | {
            "peak_mb": ""
        }
    passes = timing.interleaved(_fit_and_loop(), max(FLAGS.rounds // 2, 5), "passes of fit")
    fit = timing.row(passes["fit"], passes["loop"], BOUNDS["fit"])
    measured = {
        "network": FLAGS.network,
        "width": FLAGS.width,
        "steps": variants,
        "fit_over_bare_loop": fit,
    }
    return measured, _table(variants, fit)


def _density():
    keras.utils.set_random_seed(0)
    rows = sampling.measured(_network(), _images(FLAGS.batch_size), FLAGS.rounds)
    described = {"network": FLAGS.network, "width": FLAGS.width, "density": rows}
    return described, timing.table(rows)


def _pixels():
    keras.utils.set_random_seed(0)
    rows = pixel_perturbation.measured(_network(), _images(FLAGS.batch_size), FLAGS.rounds)
    peaks = {
        count: timing.memory(pixel_perturbation.title(count))
        for count in pixel_perturbation.FRACTIONS
    }
    described = {"network": FLAGS.network, "width": FLAGS.width, "pixels": rows, "peak_mb": peaks}
    shown = ", ".join(f"{peak} MB at {count}" for count, peak in peaks.items())
    return described, f"{timing.table(rows)}\n\nPeak memory, by fractions: {shown}."


def _model(name):
    """A compiled model; the plain one is stock Keras."""
    keras.utils.set_random_seed(0)
    network = _network()
    chosen = VARIANTS[name]()
    if chosen:
        taught = any(penalty.teacher_needs() is not None for penalty in chosen)
        teacher = _network() if taught else None
        optimizer = keras.optimizers.Adam(1e-3)
        return compilation.compiled_model(network, chosen, optimizer, False, teacher)
    network.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    return network


def _network():
    """The network of the flags on `side`×`side` colour images and ten classes."""
    return models.get(
        FLAGS.network,
        (FLAGS.side, FLAGS.side, 3),
        10,
        width=FLAGS.width,
        activation=FLAGS.activation,
        beta=FLAGS.beta,
        batch_norm=FLAGS.batch_norm,
    )


def _batch():
    labels = np.random.default_rng(1).integers(0, 10, FLAGS.batch_size)
    return _images(FLAGS.batch_size), tf.constant(labels, tf.int32)


def _images(count):
    random = np.random.default_rng(0)
    return tf.constant(random.uniform(size=(count, FLAGS.side, FLAGS.side, 3)), tf.float32)


def _step(model):
    model.optimizer.build(model.trainable_variables)
    batch, compiled = _batch(), tf.function(model.train_step)

    def step():
        # Reading the result waits for the device.
        return {name: float(value) for name, value in compiled(batch).items()}

    return step


def _fit_and_loop():
    """`fit`, and a bare loop over the compiled step of the same model and data."""
    model = _model("gradient norm")
    data = tf.data.Dataset.from_tensors(_batch()).repeat(FLAGS.fit_steps).prefetch(2)
    compiled = tf.function(model.train_step)

    def fit():
        model.fit(data, verbose=0, shuffle=False)

    def loop():
        for batch in data:
            logs = compiled(batch)
        return {name: float(value) for name, value in logs.items()}

    fit(), loop()
    return {"fit": fit, "loop": loop}


def _table(variants, fit):
    lines = [
        "| step | ms | ratio to plain | quartiles | bound | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    rows = [*variants.items(), ("fit / bare loop", fit | {"peak_mb": ""})]
    for name, row in rows:
        low, high = row["ratio_quartiles"]
        lines.append(
            f"| {name} | {row['median_ms']} | {row['ratio']} | {low} to {high} "
            f"| {row['bound'] or ''} | {row['peak_mb']} |"
        )
    return "\n".join(lines)


# Maps


def _maps(samples):
    measured = {}
    for name in FLAGS.models:
        print(f"compiling: {name}", flush=True)
        with tempfile.TemporaryDirectory() as directory:
            times = timing.interleaved(_map_functions(name, directory), FLAGS.rounds, name)
        rows = {
            which: timing.row(times[which], times[base], bound)
            for which, base, bound in (
                ("input-gradient", "input-gradient", None),
                ("FullGrad", "input-gradient", MAPS_BOUNDS[name]),
                ("exported input-gradient", "input-gradient", None),
                ("exported FullGrad", "exported input-gradient", MAPS_BOUNDS[name]),
            )
        }
        peaks: dict[str, dict[str, int]] = {}
        for method in AVERAGED:
            peaks[method] = {}
            for n in samples:
                print(f"{name}: peak memory of {method} with {n} samples", flush=True)
                peaks[method][str(n)] = timing.memory(f"{name}:{method}:{n}")
        measured[name] = {"steps": rows, "peak_mb": peaks}
    return {"maps": measured, "memory_batch_size": MEMORY_BATCH}, _maps_table(measured)


def _random_network(name):
    keras.utils.set_random_seed(0)
    return architectures.randomised(NETWORKS[name](FLAGS.side))


def _map_functions(name, directory):
    """The same maps four ways; each ends when its numbers are there."""
    network, x = _random_network(name), _images(FLAGS.batch_size)
    predicted = tf.fill([FLAGS.batch_size], -1)

    @tf.function
    def stock(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.reduce_max(network(x, training=False), -1)
        return tf.reduce_sum(tf.abs(tape.gradient(score, x)), -1)

    fullgrad = saliency.get("fullgrad")(network)
    path = export.save(network, directory, ["input_gradient", "fullgrad"], warmup=False)
    served = loading.load_served(path)
    exported = {
        f"exported {label}": lambda signature=served.signatures[method]: signature(
            image=x, target=predicted
        )["saliency"].numpy()
        for label, method in (("input-gradient", "input_gradient"), ("FullGrad", "fullgrad"))
    }
    # The signatures hold their variables weakly: the model stays alive with the first function.
    return {
        "input-gradient": lambda _=served: stock(x).numpy(),
        "FullGrad": lambda: fullgrad(x).numpy(),
        **exported,
    }


def _maps_table(measured):
    lines = [
        "| network | map | ms | ratio | quartiles | bound |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in measured.items():
        for which, row in found["steps"].items():
            low, high = row["ratio_quartiles"]
            lines.append(
                f"| {name} | {which} | {row['median_ms']} | {row['ratio']} | {low} to {high} "
                f"| {row['bound'] or ''} |"
            )
    if FLAGS.samples:
        lines += ["", "| network | method | peak MB by samples |", "|---|---|---|"]
        for name, found in measured.items():
            for method, peaks in found["peak_mb"].items():
                by_samples = ", ".join(f"{n}: {mb}" for n, mb in peaks.items())
                lines.append(f"| {name} | {method} | {by_samples} |")
    return "\n".join(lines)


if __name__ == "__main__":
    define_flags()
    command.run(main)
