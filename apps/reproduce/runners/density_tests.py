"""Tests of a network's implicit density, gradients and Hessian's trace, for one cell each."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import evaluation, losses, saliency, sampling
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.stateless_noise import Draws
from tfgrad.penalties.score_matching import trace as estimate

from ...common.trained_networks import Learned
from .bench import Bench, Found

ESTIMATORS = ("taylor", "antithetic", "hutchinson")


def gan(bench: Bench, learned: Learned, seed: int, count: int, steps: int, denoise: bool) -> Found:
    """The GAN-test of samples from noise and, if `denoise` is true, of denoised test images."""
    found = {}
    classes = len(bench.test.classes)
    images, labels = _samples(bench, learned, seed, count, steps)
    measured = evaluation.gan_test(bench.judge(), images, labels, classes)
    found["gan_test"] = measured.value
    if denoise:
        _, _, images, labels = _denoised(bench, learned, seed, count, 200)
        measured = evaluation.gan_test(bench.judge(), images, labels, classes)
        found["gan_test_denoised"] = measured.value
    return found, {}


def samples(bench: Bench, learned: Learned, seed: int, count: int, steps: int) -> Found:
    """Samples from noise, for a picture."""
    images, labels = _samples(bench, learned, seed, count, steps)
    return {}, {"samples": images, "labels": labels}


def denoised(bench: Bench, learned: Learned, seed: int, count: int, steps: int) -> Found:
    """Test images, their noisy copies, and these after gradient ascent."""
    clean, noisy, images, labels = _denoised(bench, learned, seed, count, steps)
    before, after = (
        np.linalg.norm((x - clean).reshape(count, -1), axis=1) for x in (noisy, images)
    )
    pictures = {"clean": clean, "noised": noisy, "denoised": images, "labels": labels}
    return {"moved": float(np.mean(after / before))}, pictures


def density(bench: Bench, learned: Learned, seed: int, sigmas: Sequence[float]) -> Found:
    """Ratios of the densities of noisy and clean images."""
    measured = evaluation.density_ratios(learned.network, bench.batches(learned), sigmas, seed=seed)
    ratios = {f"ratio_{i}": value for i, value in enumerate(measured.values)}
    return ratios | {"density": measured.to_json()}, {}


def noise(
    bench: Bench, learned: Learned, seed: int, sigmas: Sequence[float], repeats: int
) -> Found:
    """Accuracy under input noise, on the whole test split."""
    measured = evaluation.noise_robustness(
        learned.network, bench.batches(learned, bench.test), sigmas, repeats, seed
    )
    rates = {f"noise_{s:g}": v for s, v in zip(measured.points, measured.values, strict=True)}
    return rates | {"noise": measured.to_json()}, {}


def pixels(bench: Bench, learned: Learned, seed: int, fractions: Sequence[float]) -> Found:
    """Accuracy without the least relevant pixels, of the network and of the reference.

    Both lose the pixels that the network's gradients name.
    """
    found: dict[str, Any] = {}
    assert bench.experiment.reference is not None
    reduce = "deviation" if bench.test.image_shape[-1] > 1 else "abs_sum"
    relevance = saliency.InputGradient(learned.network, reduce=reduce)
    compared = {"own": learned, "reference": bench.network(bench.experiment.reference)}
    for name, network in compared.items():
        measured = evaluation.pixel_perturbation(
            network.network, bench.batches(learned), relevance, fractions, fill=0.5, seed=seed
        )
        found |= {name: float(np.mean(measured.values)), f"{name}_curve": measured.to_json()}
    return found, {}


def gradients(bench: Bench, learned: Learned, seed: int) -> Found:
    """Input-gradients of the label's logit at ten test images, classes in turn, for a picture."""
    images, labels = bench.one_of_each(10)
    probe = Probe(learned.network, images, labels)
    return {}, {
        "images": images,
        "labels": labels,
        "gradients": np.asarray(probe.input_gradient("label")),
    }


def energy(
    bench: Bench, learned: Learned, seed: int, mask: Sequence[Sequence[float]], temperature: float
) -> Found:
    """Share of logit-, loss- and high-temperature loss-gradients inside a mask [height, width]."""
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
    """Mean and standard deviation of single-sample estimates of tr ∇²x f, at the same images."""
    x, y = next(iter(bench.batches(learned).unbatch().batch(images)))

    @tf.function
    def estimates(step: tf.Tensor) -> list[tf.Tensor]:
        probe = Probe(learned.network, x, y, needs=Needs(order=2), draws=Draws(step))
        norm = losses.squared_norm(probe.input_gradient("label"))
        return [norm, *(estimate(probe, "label", name, sigma, 1, seed) for name in ESTIMATORS)]

    steps = [estimates(tf.constant(step, tf.int64)) for step in range(draws)]
    norms, *found = np.asarray(steps, np.float64).swapaxes(0, 1)
    scatter = {f"scatter_{name}": _rms(h.std(0)) for name, h in zip(ESTIMATORS, found, strict=True)}
    means = {f"mean_{name}": float(h.mean()) for name, h in zip(ESTIMATORS, found, strict=True)}
    # §5.8: the standard deviation of the one-sided estimator that is due to the gradient alone.
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
    def estimates(x: tf.Tensor, y: tf.Tensor, step: tf.Tensor) -> list[tf.Tensor]:
        with keras.StatelessScope(collect_losses=True):
            modes = [
                Probe(learned.network, x, y, training=mode, draws=Draws(step))
                for mode in (False, True)
            ]
            return [estimate(probe, "label", "antithetic", sigma, 1, seed) for probe in modes]

    found = {}
    for split, dataset in (("train", train), ("test", bench.examples())):
        values = [
            estimates(x, y, tf.constant(step, tf.int64))
            for x, y in bench.batches(learned, dataset, batch).take(images // batch)
            for step in range(draws)
        ]
        for mode, h in zip(("inference", "training"), np.swapaxes(values, 0, 1), strict=True):
            found[f"{split}_{mode}"] = float(np.mean(h))
            found[f"{split}_{mode}_deviation"] = float(np.std(h))
    return found, {}


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _samples(
    bench: Bench, learned: Learned, seed: int, count: int, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Samples by gradient ascent from noise, and the labels to which it ascended."""
    classes = len(bench.test.classes)
    labels = np.arange(count) % classes
    start = sampling.noise(count, bench.test.image_shape, seed=seed)
    found = sampling.gradient_ascent(learned.network, labels, start, steps=steps)
    return found.images, labels


def _denoised(
    bench: Bench, learned: Learned, seed: int, count: int, steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Clean images, noisy images, these after gradient ascent, and labels."""
    clean, labels = bench.one_of_each(count)
    noisy = sampling.noised(clean, 0.1, seed=seed)
    found = sampling.gradient_ascent(
        learned.network, labels, noisy, steps=steps, step_size=0.01, pull=0.0
    )
    return clean, noisy, found.images, labels
