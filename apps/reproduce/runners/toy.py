"""Matching slopes, or values under input noise: Figure 2.1's one-dimensional toy."""

import dataclasses
import gc
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfgrad
from tfgrad import layers, penalties
from tfgrad.errors import NonFiniteError

from ..schema import Cell, Line, Metric, Table
from .students import Record

GRID = np.linspace(-1.2, 1.2, 193, dtype=np.float32)[:, None]
_STEPS_PER_EPOCH = 100


@dataclasses.dataclass(frozen=True)
class ToyRow(Line):
    """What the student matches: values at the points, also slopes, or values at noisy copies."""

    slopes: bool = False
    copies: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(Table):
    """Students of a fixed function of one variable.

    Attributes:
        sizes: numbers of points, and seeds.
        sigma: of the noise; slopes are matched with the weight σ² that Proposition 1 gives them.
            Noisy copies are drawn once, N for each point, as an enlarged training set.
    """

    sigma: float = 0.1
    width: int = 64
    beta: float = 4.0
    epochs: int = 40
    drop: int = 32
    learning_rate: float = 1e-2

    def size_title(self, size: int) -> str:
        """The heading of a column."""
        return f"{size} points"

    def summary(self) -> str:
        """The settings in a line."""
        return (
            f"a smooth teacher of one variable; students: two softplus layers of {self.width}; "
            f"noise σ = {self.sigma:g}, slopes weighed σ²; Adam {self.learning_rate:g}, ×0.1 after "
            f"{self.drop * _STEPS_PER_EPOCH:,} of {self.epochs * _STEPS_PER_EPOCH:,} steps"
        )


def figure_2_1(scale: str) -> Toy:
    """Figure 2.1: a few points, their slopes, and noise around them."""
    copies = (1, 10, 100, 1000, 10_000) if scale == "paper" else (1, 10, 100, 1000)
    rows = (
        ToyRow("Values only"),
        ToyRow("Values and slopes", slopes=True),
        *(
            ToyRow(f"Values at {n:,} noisy cop{'ies' if n > 1 else 'y'} of each point", copies=n)
            for n in copies
        ),
    )
    return Toy(
        name="f2.1",
        title="Figure 2.1: matching slopes does what matching many noisy copies does",
        scale=scale,
        sizes=((6, 5 if scale == "paper" else 3),),
        rows=rows,
        metrics=(
            Metric("error", "error to the teacher (rms)", 1.0, 3),
            Metric("slope_error", "error of the slopes at the points (rms)", 1.0, 3),
            Metric(
                "difference", "slopes' difference to those of “values and slopes” (rms)", 1.0, 3
            ),
        ),
        note="errors of values are taken between the outermost points; the paper has no numbers",
    )


def teacher() -> keras.Model:
    """A wiggly function of one variable, the same in every run."""
    random = np.random.RandomState(3)  # Its stream is frozen for good.
    x = keras.Input((1,))
    hidden = keras.layers.Dense(24, activation="tanh", name="hidden")
    network = keras.Model(x, keras.layers.Dense(1, name="logits")(hidden(x)), name="teacher")
    slopes = random.normal(size=(1, 24)) * 5
    hidden.set_weights([slopes, -slopes[0] * random.uniform(-1, 1, size=24)])
    outputs = random.normal(size=(24, 1)) / 24**0.5
    network.get_layer("logits").set_weights([outputs, np.zeros(1)])
    return network


def points(count: int, seed: int) -> np.ndarray:
    """Where the student is told something: jittered, so that they cover [−1, 1]."""
    jitter = np.random.RandomState(seed).uniform(-0.25, 0.25, size=count)
    return (2 * (np.arange(count) + 0.5 + jitter) / count - 1).astype(np.float32)[:, None]


def student(width: int, beta: float) -> keras.Model:
    """Two smooth hidden layers."""
    x = inputs = keras.Input((1,))
    for i in (1, 2):
        x = keras.layers.Dense(width, kernel_initializer="he_normal", name=f"hidden{i}")(x)
        x = layers.Softplus(beta, name=f"act{i}")(x)
    return keras.Model(inputs, keras.layers.Dense(1, name="logits")(x), name="student")


class Bench:
    """The teacher; there is nothing else to prepare."""

    def __init__(self, experiment: Toy):
        self.experiment, self.teacher = experiment, teacher()


def run_cell(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Train one student and compare its curve with the teacher's."""
    keras.backend.clear_session()
    gc.collect()
    keras.utils.set_random_seed(cell.seed)
    start = time.perf_counter()
    toy, row = bench.experiment, cell.row
    where = points(cell.size, cell.seed)
    x = where
    if row.copies:
        noise = np.random.RandomState([cell.seed, row.copies])
        x = np.repeat(where, row.copies, axis=0)
        x = x + noise.normal(scale=toy.sigma, size=x.shape).astype(np.float32)
    network = student(toy.width, toy.beta)
    matching: list[penalties.Penalty] = [penalties.ActivationMatching(1.0)]
    if row.slopes:
        matching.append(penalties.JacobianMatching(toy.sigma**2, target=0))
    model = tfgrad.PenalizedModel(network, matching, teacher=bench.teacher)
    rate = keras.optimizers.schedules.PiecewiseConstantDecay(
        [toy.drop * _STEPS_PER_EPOCH], [toy.learning_rate, toy.learning_rate * 0.1]
    )
    # The cross-entropy of a single logit is zero: nothing is learned but what is matched.
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), cross_entropy, jit_compile=False)
    batch = (tf.constant(x), tf.zeros(len(x), tf.int32))
    record = Record()
    result: dict[str, Any] = {}
    try:
        model.fit(
            tf.data.Dataset.from_tensors(batch).repeat(),
            steps_per_epoch=_STEPS_PER_EPOCH,
            epochs=toy.epochs,
            callbacks=[record],
            shuffle=False,
            verbose=0,
        )
        result |= _measured(bench.teacher, network, where)
    except NonFiniteError as error:
        result["failed"] = str(error)
    result["seconds"] = round(time.perf_counter() - start, 2)
    result["final"] = record.epochs[-1] if record.epochs else {}
    result["epochs"] = record.epochs
    return result


def _measured(taught: keras.Model, network: keras.Model, where: np.ndarray) -> dict[str, Any]:
    inside = (where.min() <= GRID[:, 0]) & (where.max() >= GRID[:, 0])
    curves = {name: values_and_slopes(n, GRID)[0] for name, n in _both(taught, network)}
    values = {name: values_and_slopes(n, where)[0] for name, n in _both(taught, network)}
    slopes = {name: values_and_slopes(n, where)[1] for name, n in _both(taught, network)}
    return {
        "error": _rms(curves["student"][inside] - curves["teacher"][inside]),
        "slope_error": _rms(slopes["student"] - slopes["teacher"]),
        "curve": curves["student"].round(5).tolist(),
        "teacher_curve": curves["teacher"].round(5).tolist(),
        "points": where[:, 0].tolist(),
        "values": values["teacher"].tolist(),
        "slopes": slopes["student"].tolist(),
    }


def _both(taught, network):
    return (("teacher", taught), ("student", network))


def _rms(differences: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(differences))))


def values_and_slopes(network: keras.Model, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f and df/dx at every x."""
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        values = network(inputs, training=False)
    slopes = tape.gradient(values, inputs)
    return values.numpy()[:, 0].astype(np.float64), slopes.numpy()[:, 0].astype(np.float64)


def compared(toy: Toy, records: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The records, with how far the slopes are from those of the student that matched slopes."""
    complete = {}
    reference = next(row for row in toy.rows if row.slopes)
    for cell in toy.cells():
        record = records.get(cell.id)
        if record is None:
            continue
        matched = records.get(Cell(cell.size, cell.seed, reference).id, {})
        if not cell.row.slopes and "slopes" in record and "slopes" in matched:
            difference = _rms(np.subtract(record["slopes"], matched["slopes"]))
            record = {**record, "difference": difference}
        complete[cell.id] = record
    return complete
