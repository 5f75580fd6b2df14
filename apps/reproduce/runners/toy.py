"""Runs the cells of the one-dimensional toy experiment."""

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

from ...common import compilation
from ..schema import Cell, Toy
from ..schema.toy import GRID, STEPS_PER_EPOCH
from .epoch_logs import EpochLogs


def teacher() -> keras.Model:
    """An oscillating function of one variable, the same in every run."""
    random = np.random.RandomState(3)  # NumPy guarantees its stream across versions.
    x = keras.Input((1,))
    hidden = keras.layers.Dense(24, activation="tanh", name="hidden")
    network = keras.Model(x, keras.layers.Dense(1, name="logits")(hidden(x)), name="teacher")
    slopes = random.normal(size=(1, 24)) * 5
    hidden.set_weights([slopes, -slopes[0] * random.uniform(-1, 1, size=24)])
    outputs = random.normal(size=(24, 1)) / 24**0.5
    network.get_layer("logits").set_weights([outputs, np.zeros(1)])
    return network


def points(count: int, seed: int) -> np.ndarray:
    """Training points [count, 1] of the student: jittered, and spread over [−1, 1]."""
    jitter = np.random.RandomState(seed).uniform(-0.25, 0.25, size=count)
    return (2 * (np.arange(count) + 0.5 + jitter) / count - 1).astype(np.float32)[:, None]


def student(width: int, beta: float) -> keras.Model:
    """A network of one variable with two softplus layers."""
    x = inputs = keras.Input((1,))
    for i in (1, 2):
        x = keras.layers.Dense(width, kernel_initializer="he_normal", name=f"hidden{i}")(x)
        x = layers.Softplus(beta, name=f"act{i}")(x)
    return keras.Model(inputs, keras.layers.Dense(1, name="logits")(x), name="student")


class ToyBench:
    """The experiment and its teacher, shared by all cells."""

    def __init__(self, experiment: Toy) -> None:
        self.experiment, self.teacher = experiment, teacher()


def run_cell(bench: ToyBench, cell: Cell) -> dict[str, Any]:
    """Train one student and compare its curve with the teacher's.

    Returns:
        Errors, curves, seconds and the logs of every epoch; or the reason of a failed training.
    """
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
    adam = compilation.optimizer("adam", toy.learning_rate, (toy.drop,), STEPS_PER_EPOCH)
    # The cross-entropy of a single logit is zero, so that only the penalties train the student.
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(adam, cross_entropy, jit_compile=False)
    batch = (tf.constant(x), tf.zeros(len(x), tf.int32))
    logs = EpochLogs()
    result: dict[str, Any] = {}
    try:
        model.fit(
            tf.data.Dataset.from_tensors(batch).repeat(),
            steps_per_epoch=STEPS_PER_EPOCH,
            epochs=toy.epochs,
            callbacks=[logs],
            shuffle=False,
            verbose=0,
        )
        result |= _measured(bench.teacher, network, where)
    except NonFiniteError as error:
        result["failed"] = str(error)
    result["seconds"] = round(time.perf_counter() - start, 2)
    return result | logs.record()


def _measured(taught: keras.Model, network: keras.Model, where: np.ndarray) -> dict[str, Any]:
    inside = (where.min() <= GRID[:, 0]) & (where.max() >= GRID[:, 0])
    teacher_curve, curve = (values_and_slopes(one, GRID)[0] for one in (taught, network))
    teacher_values, teacher_slopes = values_and_slopes(taught, where)
    _, slopes = values_and_slopes(network, where)
    return {
        "error": _rms(curve[inside] - teacher_curve[inside]),
        "slope_error": _rms(slopes - teacher_slopes),
        "curve": curve.round(5).tolist(),
        "teacher_curve": teacher_curve.round(5).tolist(),
        "points": where[:, 0].tolist(),
        "values": teacher_values.tolist(),
        "slopes": slopes.tolist(),
    }


def _rms(differences: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(differences))))


def values_and_slopes(network: keras.Model, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f [n] and df/dx [n] at x [n, 1], in float64."""
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        values = network(inputs, training=False)
    slopes = tape.gradient(values, inputs)
    return values.numpy()[:, 0].astype(np.float64), slopes.numpy()[:, 0].astype(np.float64)


def compared(toy: Toy, records: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The records, with the difference of slopes to the student that matched slopes."""
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
