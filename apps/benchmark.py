"""What penalties cost: ratios of compiled training steps, measured in one run, interleaved.

    python -m apps.benchmark
    python -m apps.benchmark --network=vgg11 --width=0.25 --batch_size=128 --rounds=30

Every round times each variant once, in turn, and every ratio is taken within its round, so that a
machine whose speed drifts drifts for all alike; medians over the rounds are reported. The plain
step is stock Keras training of the same network. Peak memory is that of a process of its own per
variant (of the GPU, where there is one). Prints a table and writes JSON to --out.

Exit codes: 0 done, 64 usage.
"""

from apps import entry, settings

# isort: split
import itertools
import json
import os
import subprocess
import sys
import time
import warnings

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from apps import runs
from tfgrad import models, penalties
from tfgrad.errors import SecondOrderWarning

FLAGS = flags.FLAGS
BOUNDS = {"gradient norm": 2.2, "score matching": 3.2, "both": 3.3, "fit": 1.05}
VARIANTS = {
    "plain": list,
    "gradient norm": lambda: [penalties.GradientNorm(0.1)],
    "score matching": lambda: [penalties.ScoreMatching(1e-3)],
    "both": lambda: [penalties.GradientNorm(0.1), penalties.ScoreMatching(1e-3)],
}


def define_flags():
    """All flags of this app."""
    settings.define_network("vgg9")
    flags.DEFINE_integer("side", 32, "Height and width of the images.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 64, "Examples per step.", lower_bound=1)
    flags.DEFINE_integer("rounds", 15, "Timed rounds.", lower_bound=1)
    flags.DEFINE_integer("fit_steps", 10, "Steps in each timed pass of fit.", lower_bound=1)
    flags.DEFINE_string("out", "runs/benchmark.json", "Where the JSON goes.")
    flags.DEFINE_enum("memory_of", None, list(VARIANTS), "Print this variant's peak memory only.")


def main():
    """Measure, print, write."""
    # On a ReLU network score matching means nothing, and costs what it costs.
    warnings.simplefilter("ignore", SecondOrderWarning)
    if FLAGS.memory_of:
        step = _step(_model(FLAGS.memory_of))
        for _ in range(3):
            step()
        print(json.dumps(_peak_megabytes()))
        return None
    steps = {}
    for name in VARIANTS:
        print(f"compiling: {name}", flush=True)
        steps[name] = _step(_model(name))
        _seconds(steps[name])
    times = _interleaved(steps, FLAGS.rounds, "steps")
    variants = {
        name: _row(times[name], times["plain"], BOUNDS.get(name)) | {"peak_mb": _memory(name)}
        for name in VARIANTS
    }
    passes = _interleaved(_fit_and_loop(), max(FLAGS.rounds // 2, 5), "passes of fit")
    fit = _row(passes["fit"], passes["loop"], BOUNDS["fit"])
    result = {
        "network": FLAGS.network,
        "width": FLAGS.width,
        "batch_size": FLAGS.batch_size,
        "side": FLAGS.side,
        "rounds": FLAGS.rounds,
        "steps": variants,
        "fit_over_bare_loop": fit,
        "versions": runs.versions(),
        "cores": os.cpu_count(),
    }
    if os.path.dirname(FLAGS.out):
        os.makedirs(os.path.dirname(FLAGS.out), exist_ok=True)
    runs.write_json(FLAGS.out, result)
    print(_table(variants, fit) + f"\nwritten to {FLAGS.out}")
    return result


def _model(name):
    """A compiled model; the plain one is stock Keras."""
    keras.utils.set_random_seed(0)
    network = _network()
    chosen = VARIANTS[name]()
    if chosen:
        return settings.compiled_model(network, chosen, keras.optimizers.Adam(1e-3), False)
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
    random = np.random.default_rng(0)
    x = random.uniform(size=(FLAGS.batch_size, FLAGS.side, FLAGS.side, 3)).astype("float32")
    return tf.constant(x), tf.constant(random.integers(0, 10, FLAGS.batch_size), tf.int32)


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


def _seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _interleaved(functions, rounds, what):
    """{name: seconds of every round}; the order turns by one each round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    order = itertools.cycle(functions)
    for function in functions.values():
        _seconds(function)
    for done in range(rounds):
        for _ in functions:
            name = next(order)
            times[name].append(_seconds(functions[name]))
        next(order)
        print(f"\r{what}: round {done + 1} of {rounds}", end="", flush=True)
    print()
    return times


def _row(times, base, bound):
    ratios = np.asarray(times) / np.asarray(base)
    return {
        "median_ms": round(1e3 * float(np.median(times)), 2),
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_quartiles": [round(float(q), 3) for q in np.percentile(ratios, [25, 75])],
        "bound": bound,
    }


def _memory(name):
    command = [sys.executable, "-m", "apps.benchmark", *sys.argv[1:], f"--memory_of={name}"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def _peak_megabytes():
    if tf.config.list_physical_devices("GPU"):
        return round(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20)
    # Not getrusage: a child's maximum starts at what its parent held when it was forked.
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024)


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


if __name__ == "__main__":
    define_flags()
    entry.run(main)
