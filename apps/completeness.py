"""Check that the decomposition adds up, on all of keras.applications and on each kind of network.

    python -m apps.completeness --out=docs/results/completeness
    python -m apps.completeness --only=VGG16,EfficientNetV2B0

Builds each architecture with random weights, biases and batch-norm statistics, decomposes the
predicted logit of two random images into input-gradient and bias-gradients (tfgrad.full_gradients)
and reports the relative error of the sum, abs(f − sum) / abs(f). Takes about half an hour on two
cores.

Writes OUT.json after every architecture, and resumes from it when started again; at the end
OUT.md, a table.

Exit codes: 0 all within the bound, 1 not all, 64 usage.
"""

from .common import command

# isort: split
import gc
import os
import time
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from absl import flags

import tfgrad
from tfgrad.errors import ArgumentError
from tfgrad.internal import files
from tfgrad.loading.applications import APPLICATIONS

from .common import architectures, invocation, terminal, work_directory

FLAGS = flags.FLAGS
BOUND = 1e-5


def define_flags() -> None:
    """Define all flags of this command."""
    flags.DEFINE_string("out", "runs/completeness", "Prefix of the files that are written.")
    flags.DEFINE_integer("side", 96, "Height and width of the images.", lower_bound=75)
    flags.DEFINE_list("only", [], "Names of the architectures to measure; default: all.")


def main() -> None:
    """Measure, write and print."""
    builders = dict(architectures.KINDS)
    builders |= {name: _application(name) for name in APPLICATIONS}
    for name in FLAGS.only:
        if name not in builders:
            raise ArgumentError(f"--only: got {name!r}; expected some of {', '.join(builders)}.")
    chosen = FLAGS.only or list(builders)
    os.makedirs(os.path.dirname(FLAGS.out) or ".", exist_ok=True)
    path = f"{FLAGS.out}.json"
    settings = {
        "side": FLAGS.side,
        "batch": 2,
        "bound": BOUND,
        "versions": work_directory.versions(),
    }
    record = work_directory.read_json(path) or {}
    rows = record["architectures"] if record.get("settings") == settings else {}
    begun, todo = time.time(), [name for name in chosen if name not in rows]
    for number, name in enumerate(todo):
        rows[name] = measured(builders[name])
        files.write_json(path, {"settings": settings, "architectures": rows})
        left = (time.time() - begun) / (number + 1) * (len(todo) - number - 1)
        print(
            f"{number + 1} of {len(todo)}: {name}: {rows[name]['error']:.1e} "
            f"({rows[name]['seconds']:.0f} s; about {left / 60:.0f} min left)",
            flush=True,
        )
    text = table({name: rows[name] for name in chosen}, settings)
    files.write_text(f"{FLAGS.out}.md", text)
    terminal.show(f"{text}\nwritten to {FLAGS.out}.md")
    wrong = [name for name in chosen if not rows[name]["error"] <= BOUND]
    if wrong:
        print(f"beyond {BOUND:.0e}: {', '.join(wrong)}")
        raise SystemExit(1)


def _application(name: str) -> architectures.Build:
    return lambda: architectures.application(name, FLAGS.side)


def measured(build: architectures.Build) -> dict[str, Any]:
    """{error, terms, parameters, layers, seconds} of one architecture."""
    keras.utils.set_random_seed(0)
    network = architectures.randomised(build())
    x = architectures.random_inputs(network)
    start = time.time()
    full = tfgrad.full_gradients(network, x)
    row = {
        "error": float(tf.reduce_max(full.completeness_error())),
        "condition": float(tf.reduce_max(condition(full))),
        "terms": len(full.bias_gradients),
        "parameters": network.count_params(),
        "seconds": round(time.time() - start, 1),
    }
    del network, full
    keras.backend.clear_session()
    gc.collect()
    return row


def condition(full: tfgrad.FullGradients) -> tf.Tensor:
    """Σ abs(terms) / abs(f), [batch]: the factor of rounding in the relative error."""
    inputs = tf.nest.flatten(full.input_term)
    sizes = [
        tf.reduce_sum(tf.abs(t), range(1, t.shape.rank))
        for t in [*inputs, *full.bias_gradients.values()]
    ]
    return tf.add_n(sizes) / tf.abs(full.score)


def table(rows: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """The rows as a page in Markdown."""
    worst = max(row["error"] for row in rows.values())
    lines = [
        "# Completeness of the full-gradient decomposition",
        "",
        "The terms of f(x) = ∇x f · x + Σ_l ∇_{z_l} f · b_l (thesis Eq. 3.1) are summed for every",
        "architecture of keras.applications and for one network of each kind, with random weights,",
        "biases and batch-norm statistics, for two random images",
        f"({settings['side']}×{settings['side']} for keras.applications), in float32.",
        "*error* is the relative error of the sum, abs(f − sum) / abs(f), the larger of the two;",
        "*terms* is the number of layer calls with an intercept; *condition* is",
        "Σ abs(terms) / abs(f), by which rounding (6e-8) is multiplied. Generated by",
        "",
        f"    {invocation.line('completeness')} --out=docs/results/completeness",
        "",
        f"{len(rows)} architectures; the largest error is {worst:.1e}, the bound "
        f"{settings['bound']:.0e}.",
        "",
        "| architecture | parameters | terms | condition | error |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['parameters']:,} | {row['terms']} | {row['condition']:.0f} "
        f"| {row['error']:.1e} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    define_flags()
    command.run(main)
