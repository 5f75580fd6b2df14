"""Costs of training steps with penalties, in units of the plain step, and of `fit`."""

import math
import warnings
from collections.abc import Callable, Collection
from typing import Any

import keras
import tensorflow as tf

from tfgrad import penalties
from tfgrad.errors import SecondOrderWarning

from ..common import compilation
from . import timing

Build = Callable[[], keras.Model]
Batch = tuple[tf.Tensor, tf.Tensor]

BOUNDS = {
    "gradient norm": 2.2,
    "score matching": 3.2,
    "both": 3.3,
    "gradient norm, each 8th step": 1.15,
    "gradient norm, projected": 2.4,
    "matching": 2.9,
    "fit": 1.05,
}
# What bias-gradients and attention may add to a step that matches logits and input-gradients.
MORE_BOUND = 1.25
_MATCHED = ("conv1", "conv2", "conv3")
_MATCHED_MAPS = ("act1", "act2", "act3")


def _matching() -> list[penalties.Penalty]:
    return [penalties.ActivationMatching(1.0), penalties.JacobianMatching(1.0)]


VARIANTS: dict[str, Callable[[], list[penalties.Penalty]]] = {
    "plain": list,
    "gradient norm": lambda: [penalties.GradientNorm(0.1)],
    "gradient norm, difference": lambda: [penalties.GradientNorm(0.1, estimator="difference")],
    "gradient norm, each 8th step": lambda: [penalties.GradientNorm(0.1, every=8)],
    "gradient norm, projected": lambda: [penalties.GradientNorm(0.1, target="projected")],
    "gradient norm, all classes": lambda: [penalties.GradientNorm(0.1, target="all")],
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


def measured(
    build: Build, batch: Batch, chosen: Collection[str], rounds: int, fit_steps: int
) -> tuple[dict[str, Any], str]:
    """Times of all steps and of `fit`, and their table.

    Args:
        build: Builds the network.
        batch: Images and labels of a step.
        chosen: Names among `VARIANTS`; the plain step is always measured.
        rounds: Number of timed rounds.
        fit_steps: Number of steps in a timed pass of `fit`.
    """
    # Score matching is meaningless on a ReLU network, but costs the same.
    warnings.simplefilter("ignore", SecondOrderWarning)
    steps = {}
    names = ["plain", *(name for name in VARIANTS if name in chosen and name != "plain")]
    for name in names:
        steps[name] = step(name, build, batch)
    timing.compiled(steps, "plain")
    times = timing.interleaved(steps, rounds, "steps")
    for name in names:
        times[name] = [seconds / _period(name) for seconds in times[name]]
    rows = timing.shown(
        {name: timing.row(times[name], times["plain"], BOUNDS.get(name)) for name in names}
    )
    if {"matching", "matching + bias + attention"} <= set(names):
        more = times["matching + bias + attention"], times["matching"]
        rows["bias + attention, over matching"] = timing.row(*more, MORE_BOUND)
    loops = _fit_and_loop(build, batch, fit_steps)
    timing.compiled(loops, "loop")
    passes = timing.interleaved(loops, max(rounds // 2, 5), "passes of fit")
    fit = timing.row(passes["fit"], passes["loop"], BOUNDS["fit"])
    rows = {
        name: row | {"peak_mb": timing.memory(name) if name in steps else ""}
        for name, row in rows.items()
    }
    return {"steps": rows, "fit_over_bare_loop": fit}, _table(rows, fit)


def step(variant: str, build: Build, batch: Batch) -> Callable[[], dict[str, float]]:
    """A compiled training step of a variant, which returns once its result can be read.

    Of penalties that not every step computes, a whole period of steps.
    """
    model = _model(variant, build)
    model.optimizer.build(model.trainable_variables)
    compiled = tf.function(model.train_step, autograph=False)

    def period() -> dict[str, float]:
        for _ in range(_period(variant)):
            logs = compiled(batch)
        # Reading the result waits for the device.
        return {name: float(value) for name, value in logs.items()}

    return period


def _period(variant: str) -> int:
    """The number of steps after which their costs repeat."""
    return math.lcm(*(penalty.every for penalty in VARIANTS[variant]()))


def _model(variant: str, build: Build) -> keras.Model:
    """A compiled model; the plain one is stock Keras."""
    keras.utils.set_random_seed(0)
    network = build()
    chosen = VARIANTS[variant]()
    if chosen:
        taught = any(penalty.teacher_needs() is not None for penalty in chosen)
        teacher = build() if taught else None
        optimizer = keras.optimizers.Adam(1e-3)
        return compilation.compiled_model(network, chosen, optimizer, False, teacher)
    network.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    return network


def _fit_and_loop(build: Build, batch: Batch, steps: int) -> dict[str, Callable[[], Any]]:
    """A bare loop over the compiled step, and `fit` of the same model and data."""
    model = _model("gradient norm", build)
    data = tf.data.Dataset.from_tensors(batch).repeat(steps).prefetch(2)
    compiled = tf.function(model.train_step, autograph=False)

    def fit() -> None:
        model.fit(data, verbose=0, shuffle=False)

    def loop() -> dict[str, float]:
        for each in data:
            logs = compiled(each)
        return {name: float(value) for name, value in logs.items()}

    return {"loop": loop, "fit": fit}


def _table(steps: dict[str, dict[str, Any]], fit: dict[str, Any]) -> str:
    lines = [
        "| step | ms | ratio to plain | quartiles | bound | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    rows = [*steps.items(), ("fit / bare loop", fit | {"peak_mb": ""})]
    lines += [f"| {name} {timing.cells(row)} | {row['peak_mb'] or ''} |" for name, row in rows]
    return "\n".join(lines)
