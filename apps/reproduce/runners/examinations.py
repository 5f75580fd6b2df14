"""Trains the networks of an `Examination`, once for all experiments, and tests them."""

import dataclasses
import gc
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import data, evaluation, losses, saliency, sampling
from tfgrad.errors import NonFiniteError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.stateless_noise import Draws
from tfgrad.penalties.score_matching import trace as estimate

from ...common.trained_networks import Learned, accuracy, normalised
from ..examination import Examination, Examined
from ..schema import ACCURACY, Cell, Subject
from . import map_tests
from .students import Options
from .trained_networks import trained

_BATCH = 250
ESTIMATORS = ("taylor", "antithetic", "hutchinson")


class Bench:
    """Test images, the judge, and networks as they are asked for."""

    def __init__(self, experiment: Examination, work_dir: str, options: Options):
        self.experiment, self.work_dir, self.options = experiment, work_dir, options
        self._splits: dict[Any, data.Dataset] = {}
        one = experiment.subject
        self.test = self.load(one.dataset, one.image_size, one.test_split)
        self._found: dict[str, Learned] = {}

    def network(self, subject: Subject, epoch: int | None = None) -> Learned:
        """A network, trained first if it has to be; or as it was after an epoch."""
        directory = self.options.networks_dir or os.path.join(self.work_dir, "networks")
        path = trained(subject, self.load, directory, self.options.jit_compile)
        if path not in self._found:
            self._found[path] = Learned(path)
        if epoch is None:
            return self._found[path]
        record = self._found[path].record
        known = {"normalize": record["normalize"], "epochs": record["epochs"][:epoch]}
        return Learned(f"{path[: -len('.keras')]}-epoch{epoch}.keras", known)

    def judge(self) -> keras.Model:
        """The network that says what generated images show."""
        assert self.experiment.judge is not None
        return self.network(self.experiment.judge).network

    def batches(self, learned: Learned) -> tf.data.Dataset:
        """The first test images, as a network takes them, with their labels."""
        return data.pipeline(
            self.examples(), _BATCH, training=False, normalize=learned.statistics(self.test)
        )

    def examples(self) -> data.Dataset:
        """The test images that tests look at."""
        count = self.experiment.examples
        return dataclasses.replace(
            self.test, images=self.test.images[:count], labels=self.test.labels[:count]
        )

    def accuracy(self, learned: Learned) -> float:
        """On the whole test split."""
        images = normalised(self.test, learned.statistics(self.test))
        return accuracy(learned.network, images, self.test.labels)

    def load(self, name: str, image_size: Any, split: str) -> data.Dataset:
        """A split, as the options say where from; read once for all cells."""
        key = name, image_size, split
        if key not in self._splits:
            where = self.options.data_dir, self.options.download
            self._splits[key] = data.load(name, split, *where, image_size)
        return self._splits[key]

    def one_of_each(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Test images in [0, 1] and their labels, the classes in turn."""
        classes = len(self.test.classes)
        chosen = data.subset(self.test, -(-count // classes), seed=0)
        order = np.argsort(chosen.labels, kind="stable").reshape(classes, -1).T.ravel()[:count]
        return normalised(chosen, None)[order], chosen.labels[order]


def run_cell(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Train one network if nobody has, and put it to the experiment's tests.

    Returns:
        Accuracy, what the tests found, and seconds; arrays for pictures lie in WORK_DIR/images.
    """
    keras.backend.clear_session()
    gc.collect()
    row: Examined = cell.row
    start = time.perf_counter()
    try:
        learned = bench.network(row.network(cell.seed), row.epoch)
    except NonFiniteError as error:
        return {"failed": str(error), "seconds": round(time.perf_counter() - start, 2)}
    start = time.perf_counter()
    record: dict[str, Any] = {ACCURACY: bench.accuracy(learned)}
    pictures: dict[str, np.ndarray] = {}
    for name, arguments in bench.experiment.tests.items():
        found, drawn = TESTS[name](bench, learned, cell.seed, **row.asked(), **arguments)
        record |= found
        pictures |= drawn
    if pictures:
        directory = os.path.join(bench.work_dir, "images")
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, f"{cell.id}.npz")
        arrays: Any = pictures
        np.savez_compressed(f"{path}.tmp.npz", **arrays)
        os.replace(f"{path}.tmp.npz", path)
    record["trained"] = learned.record.get("epochs", [])[-1:]
    return record | {"seconds": round(time.perf_counter() - start, 2)}


Found = tuple[dict[str, Any], dict[str, np.ndarray]]


def gan(bench: Bench, learned: Learned, seed: int, count: int, steps: int, denoise: bool) -> Found:
    """The GAN-test of samples from noise and, if asked, of denoised test images."""
    found = {}
    classes = len(bench.test.classes)
    images, labels = _samples(bench, learned, seed, count, steps)
    judged = evaluation.gan_test(bench.judge(), images, labels, classes)
    found["gan_test"] = judged.value
    if denoise:
        _, _, images, labels = _denoised(bench, learned, seed, count, 200)
        judged = evaluation.gan_test(bench.judge(), images, labels, classes)
        found["gan_test_denoised"] = judged.value
    return found, {}


def samples(bench: Bench, learned: Learned, seed: int, count: int, steps: int) -> Found:
    """Samples from noise, to be looked at."""
    images, labels = _samples(bench, learned, seed, count, steps)
    return {}, {"samples": images, "labels": labels}


def denoised(bench: Bench, learned: Learned, seed: int, count: int, steps: int) -> Found:
    """Test images, the same under noise, and after gradient ascent."""
    clean, noisy, images, labels = _denoised(bench, learned, seed, count, steps)
    before, after = (
        np.linalg.norm((x - clean).reshape(count, -1), axis=1) for x in (noisy, images)
    )
    pictures = {"clean": clean, "noised": noisy, "denoised": images, "labels": labels}
    return {"moved": float(np.mean(after / before))}, pictures


def density(bench: Bench, learned: Learned, seed: int, sigmas) -> Found:
    """Density ratios under noise."""
    measured = evaluation.density_ratios(learned.network, bench.batches(learned), sigmas, seed=seed)
    ratios = {f"ratio_{i}": value for i, value in enumerate(measured.values)}
    return ratios | {"density": measured.to_json()}, {}


def noise(bench: Bench, learned: Learned, seed: int, sigmas, repeats: int) -> Found:
    """Accuracy under input noise, on the whole test split."""
    batches = data.pipeline(
        bench.test, _BATCH, training=False, normalize=learned.statistics(bench.test)
    )
    measured = evaluation.noise_robustness(learned.network, batches, sigmas, repeats, seed)
    rates = {f"noise_{s:g}": v for s, v in zip(measured.points, measured.values, strict=True)}
    return rates | {"noise": measured.to_json()}, {}


def pixels(bench: Bench, learned: Learned, seed: int, fractions) -> Found:
    """Accuracy without the least relevant pixels: its own, and of the reference by these maps."""
    found: dict[str, Any] = {}
    assert bench.experiment.reference is not None
    reduce = "deviation" if bench.test.image_shape[-1] > 1 else "abs_sum"
    relevance = saliency.InputGradient(learned.network, reduce=reduce)
    judged = {"own": learned, "reference": bench.network(bench.experiment.reference)}
    for name, network in judged.items():
        measured = evaluation.pixel_perturbation(
            network.network, bench.batches(learned), relevance, fractions, fill=0.5, seed=seed
        )
        found |= {name: float(np.mean(measured.values)), f"{name}_curve": measured.to_json()}
    return found, {}


def gradients(bench: Bench, learned: Learned, seed: int) -> Found:
    """Input-gradients of the label's logit of ten test images, one of each class."""
    images, labels = bench.one_of_each(10)
    probe = Probe(learned.network, images, labels)
    return {}, {
        "images": images,
        "labels": labels,
        "gradients": np.asarray(probe.input_gradient("label")),
    }


def energy(bench: Bench, learned: Learned, seed: int, mask, temperature: float) -> Found:
    """The share of logit-, loss- and high-temperature loss-gradients inside a mask."""
    found: dict[str, Any] = {}
    asked: dict[str, dict[str, Any]] = {
        "logit": {"of": "logit"},
        "loss": {"of": "loss"},
        "hot": {"of": "loss", "temperature": temperature},
    }
    for name, arguments in asked.items():
        measured = evaluation.energy_share(
            learned.network, bench.batches(learned), np.asarray(mask), **arguments
        )
        found |= {name: measured.value, f"{name}_share": measured.to_json()}
    return found, gradients(bench, learned, seed)[1] | {"mask": np.asarray(mask)}


def trace(
    bench: Bench, learned: Learned, seed: int, sigma: float, draws: int, images: int
) -> Found:
    """How much estimates of tr ∇²x f from one sample scatter, at the same images."""
    x, y = next(iter(bench.batches(learned).unbatch().batch(images)))

    @tf.function
    def estimates(step):
        probe = Probe(learned.network, x, y, needs=Needs(order=2), draws=Draws(step))
        norm = losses.squared_norm(probe.input_gradient("label"))
        return [norm, *(estimate(probe, "label", name, sigma, 1, seed) for name in ESTIMATORS)]

    steps = [estimates(tf.constant(step, tf.int64)) for step in range(draws)]
    norms, *found = np.asarray(steps, np.float64).swapaxes(0, 1)
    scatter = {f"scatter_{name}": _rms(h.std(0)) for name, h in zip(ESTIMATORS, found, strict=True)}
    means = {f"mean_{name}": float(h.mean()) for name, h in zip(ESTIMATORS, found, strict=True)}
    # §5.8: what the gradient alone makes of the one-sided estimator's scatter.
    expected = {"scatter_expected": 2 * float(np.sqrt(norms.mean())) / sigma}
    return {**scatter, **means, **expected, "squared_norm": float(norms.mean())}, {}


def coupling(
    bench: Bench, learned: Learned, seed: int, sigma: float, draws: int, images: int, batch: int
) -> Found:
    """The antithetic estimate of tr ∇²x f in inference and in training mode."""
    one = bench.experiment.subject
    train = bench.load(
        one.dataset, one.image_size, f"{one.train_split.partition('[')[0]}[:{images}]"
    )

    @tf.function
    def estimates(x, y, step):
        with keras.StatelessScope(collect_losses=True):
            modes = [
                Probe(learned.network, x, y, training=mode, draws=Draws(step))
                for mode in (False, True)
            ]
            return [estimate(probe, "label", "antithetic", sigma, 1, seed) for probe in modes]

    found = {}
    for split, dataset in (("train", train), ("test", bench.examples())):
        stream = data.pipeline(
            dataset, batch, training=False, normalize=learned.statistics(bench.test)
        )
        values = [
            estimates(x, y, tf.constant(step, tf.int64))
            for x, y in stream.take(images // batch)
            for step in range(draws)
        ]
        for mode, h in zip(("inference", "training"), np.swapaxes(values, 0, 1), strict=True):
            found[f"{split}_{mode}"] = float(np.mean(h))
            found[f"{split}_{mode}_deviation"] = float(np.std(h))
    return found, {}


TESTS: Mapping[str, Callable[..., Found]] = {
    test.__name__: test
    for test in (
        gan,
        samples,
        denoised,
        density,
        noise,
        pixels,
        gradients,
        energy,
        trace,
        coupling,
        map_tests.perturbation,
        map_tests.flip,
        map_tests.retraining,
        map_tests.labels,
        map_tests.maps,
    )
}


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _samples(bench, learned, seed, count, steps):
    classes = len(bench.test.classes)
    labels = np.arange(count) % classes
    start = sampling.noise(count, bench.test.image_shape, seed=seed)
    found = sampling.gradient_ascent(learned.network, labels, start, steps=steps)
    return found.images, labels


def _denoised(bench, learned, seed, count, steps):
    clean, labels = bench.one_of_each(count)
    noisy = sampling.noised(clean, 0.1, seed=seed)
    found = sampling.gradient_ascent(
        learned.network, labels, noisy, steps=steps, step_size=0.01, pull=0.0
    )
    return clean, noisy, found.images, labels
