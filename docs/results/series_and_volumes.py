"""Maps of networks of series and of volumes, tested by removal: docs/results/series_and_volumes.md.

    pip install --no-deps aeon==1.6.0
    python docs/results/series_and_volumes.py --data_dir=DATA_DIR

The series are GunPoint of the UCR archive, which the package aeon contains; it is read as a file
and not imported. DATA_DIR holds MNIST as tensorflow_datasets stores it. Trained networks are kept
in runs/series_and_volumes, so that an interrupted run resumes.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import data, evaluation, figures, layers, saliency

L = keras.layers
HERE = pathlib.Path(__file__).parent
RUNS = pathlib.Path("runs/series_and_volumes")
METHODS = ("fullgrad", "gradcam", "integrated_gradients", "input_gradient")
CONTROLS = ("random", "random, coarse")
CELLS = {"series": (12,), "volumes": (2, 4, 4)}  # of the coarse control
FRACTIONS = (0.1, 0.3, 0.5)
SEEDS = (0, 1, 2)
DIRECTIONS = ("left", "right", "up", "down")
FRAMES, SIDE, CANVAS = 6, 14, 20


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A data set with a network for it.

    Attributes:
        name: Its name in files.
        train: Inputs and labels to train on.
        test: Inputs and labels to test on.
        build: Returns a new network.
        epochs: Number of epochs.
        batch_size: Number of examples per step.
    """

    name: str
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    build: Callable[[], keras.Model]
    epochs: int
    batch_size: int


def gunpoint(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Series [n, 150, 1] of mean 0 and standard deviation 1, and labels: 0 gun, 1 point."""
    package = importlib.util.find_spec("aeon")
    if package is None:
        raise SystemExit(
            "aeon: not installed; expected the package with the series; try\n"
            "    pip install --no-deps aeon==1.6.0"
        )
    path = pathlib.Path(*package.submodule_search_locations) / "datasets/data/GunPoint"
    text = (path / f"GunPoint_{split}.ts").read_text()
    rows = [line.split(":") for line in text.partition("@data")[2].split()]
    series = np.array([values.split(",") for values, _ in rows], "float32")
    return series[..., np.newaxis], np.array([int(label) - 1 for _, label in rows], "int32")


def moving_digits(digits: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Volumes [n, frames, side, side, 1] of digits that move by a pixel per frame; directions."""
    rng = np.random.default_rng(seed)
    small = digits.reshape(-1, SIDE, 2, SIDE, 2).mean((2, 4)) / 255
    volumes = np.zeros((len(small), FRAMES, CANVAS, CANVAS, 1), "float32")
    labels = rng.integers(0, len(DIRECTIONS), len(small)).astype("int32")
    ways = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
    room = CANVAS - SIDE
    for volume, digit, label in zip(volumes, small, labels, strict=True):
        way = np.array(ways[DIRECTIONS[label]])
        place = np.where(way == 0, rng.integers(0, room + 1, 2), np.where(way > 0, 0, room))
        for frame in volume:
            top, left = place
            frame[top : top + SIDE, left : left + SIDE, 0] = digit
            place = place + way
    return volumes, labels


def series_network() -> keras.Model:
    """A convolutional network of series, with a batch norm after every convolution."""
    steps = [keras.Input((150, 1))]
    for filters, width in ((16, 8), (32, 5), (32, 3)):
        steps += [L.Conv1D(filters, width, padding="same"), L.BatchNormalization()]
        steps += [L.Activation("relu"), L.MaxPooling1D(2)]
    return keras.Sequential([*steps[:-1], L.GlobalAveragePooling1D(), L.Dense(2)], name="series")


def volume_network() -> keras.Model:
    """A convolutional network of volumes."""
    steps = [keras.Input((FRAMES, CANVAS, CANVAS, 1))]
    for filters in (8, 16, 16):
        # Keras's layer has wrong gradients on a CPU where the entries of a window are equal.
        steps += [L.Conv3D(filters, 3, padding="same", activation="relu"), layers.MaxPooling3D(2)]
    return keras.Sequential([*steps[:-1], L.GlobalAveragePooling3D(), L.Dense(4)], name="volumes")


def experiments(data_dir: str | None) -> list[Experiment]:
    """Both experiments."""
    digits = [data.load("mnist", split, data_dir) for split in ("train[:1500]", "test[:200]")]
    volumes = [moving_digits(d.images.astype("float32"), seed) for seed, d in enumerate(digits)]
    series = Experiment("series", gunpoint("TRAIN"), gunpoint("TEST"), series_network, 150, 10)
    return [series, Experiment("volumes", *volumes, volume_network, 5, 25)]


def trained(experiment: Experiment, seed: int) -> keras.Model:
    """The network of a seed, from its file if it was trained before."""
    path = RUNS / f"{experiment.name}-{seed}.keras"
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(seed)
    network = experiment.build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    steps = experiment.epochs * -(-len(experiment.train[0]) // experiment.batch_size)
    network.optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    network.fit(*experiment.train, experiment.batch_size, epochs=experiment.epochs, verbose=0)
    os.makedirs(RUNS, exist_ok=True)
    network.save(path)
    print(path, network.evaluate(*experiment.test, verbose=0, return_dict=True), flush=True)
    return network


def ranking(name: str, network: keras.Model, cells: tuple[int, ...]) -> Any:
    """What ranks positions: absolute maps of a method, or a control."""
    if name == "random":
        return name

    def coarse(x: tf.Tensor, classes: tf.Tensor) -> np.ndarray:
        sizes = x.shape[1:-1]
        few = [-(-size // cell) for size, cell in zip(sizes, cells, strict=True)]
        maps = np.random.default_rng(0).normal(size=(len(x), *few))
        for axis, (size, cell) in enumerate(zip(sizes, cells, strict=True), 1):
            maps = maps.repeat(cell, axis).take(range(size), axis)
        return maps

    if name in CONTROLS:
        return coarse
    method = saliency.get(name)(network)
    return lambda x, classes: tf.abs(method(x, None))


def removal(experiment: Experiment, network: keras.Model) -> dict[str, list[float]]:
    """The change of the top probability without the least salient positions, and the accuracy."""
    batches = tf.data.Dataset.from_tensor_slices(experiment.test).batch(50)
    found = {}
    for name in (*METHODS, *CONTROLS):
        measured = evaluation.pixel_perturbation(
            network,
            batches,
            ranking(name, network, CELLS[experiment.name]),
            FRACTIONS,
            fill=0.0,
            score="change of the top probability",
        )
        found[name] = [*measured.values, *measured.columns["accuracy"]]
    return found


def drawn(experiment: Experiment, network: keras.Model) -> None:
    """The picture of three examples of different classes."""
    x, y = experiment.test
    chosen = [int(np.flatnonzero(y == k)[1]) for k in np.unique(y)[:3]]
    x, y = x[chosen], y[chosen]
    names = METHODS[:3]
    maps = {name: np.asarray(saliency.get(name)(network)(x, None)) for name in names}
    classes = ("gun", "point") if experiment.name == "series" else DIRECTIONS
    labels = [classes[k] for k in y]
    predictions = [classes[k] for k in network.predict(x, verbose=0).argmax(-1)]
    path = HERE / f"series_and_volumes_{experiment.name}.png"
    draw = figures.saliency_series if experiment.name == "series" else figures.saliency_slices
    draw(path, x, maps, labels=labels, predictions=predictions)


def row(values: np.ndarray) -> str:
    """Means and standard deviations over the networks as cells of a table."""
    means, spreads = values.mean(0), values.std(0, ddof=1)
    return " | ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(means, spreads, strict=True))


def main() -> None:
    """Train, test, and write the numbers, the tables and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", help="The directory of tensorflow_datasets.")
    results = {}
    for experiment in experiments(parser.parse_args().data_dir):
        networks = [trained(experiment, seed) for seed in SEEDS]
        x, y = experiment.test
        found = [removal(experiment, network) for network in networks]
        complete = [
            evaluation.completeness(n, x[:50], saliency.get("integrated_gradients")).columns
            for n in networks
        ]
        results[experiment.name] = {
            "accuracy": [float((n.predict(x, verbose=0).argmax(-1) == y).mean()) for n in networks],
            "completeness": [columns["full-gradients"][0] for columns in complete],
            "removal": {name: [each[name] for each in found] for name in found[0]},
        }
        drawn(experiment, networks[0])
        print(f"\n{experiment.name}: accuracy {results[experiment.name]['accuracy']}")
        for name in found[0]:
            print(f"| {name} | {row(np.array(results[experiment.name]['removal'][name]))} |")
    text = json.dumps(results, indent=1)
    (HERE / "series_and_volumes.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
