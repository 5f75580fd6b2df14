"""Density ratios of a classifier's implicit density under noise (thesis §5.5.1, Fig. 5.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.evaluation.batches import (
    Placed,
    check_finite,
    noise_levels,
    one_by_one,
    per_image,
    placed,
)
from tfgrad.evaluation.measurement import LOWER, Measurement, standard_error
from tfgrad.evaluation.network_tests.noisy_inputs import float_sources
from tfgrad.gradients import class_scores, targets
from tfgrad.gradients.model_checks import check_logits, returning_logits
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer
from tfgrad.internal.precision import nest_at_least_float32
from tfgrad.internal.stateless_noise import Draws
from tfgrad.models import output_meaning

SIGMAS = tuple(np.geomspace(1e-4, 1e-1, 13).tolist())
QUANTILES = (5, 25, 50, 75, 95)


@output_meaning.takes_outputs("network")
def density_ratios(
    network: Any,
    batches: Any,
    sigmas: Iterable[float] = SIGMAS,
    *,
    target: Any = "label",
    draws: int = 1,
    seed: int = 0,
    inputs: Any = None,
    outputs: Any = None,
) -> Measurement:
    """E p(x+η|y) / p(x|y) = E exp(f_y(x+η) − f_y(x)), η ~ N(0, σ²I); lower is better.

    For images drawn from the model's own density the expected ratio is 1 at every σ, and far below
    for most images; a model that prefers noise to images is far above 1. The largest terms dominate
    the mean, so read it together with the quantiles of the logarithm f_y(x+η) − f_y(x). The mean is
    computed in log space and float64; a ratio that exceeds float64 is infinite, and its logarithm
    is in the columns.

    Logits are float32 or wider, whatever the network's dtype policy. The effect of their rounding
    on the logarithm is measured, by a change of each pixel's last bit, and reported as "log ratio,
    rounding": quantiles that lie no further apart than this show rounding.

    Args:
        network: A Keras model from images [batch, …], or several inputs, to logits [batch,
            classes].
        batches: A data set of (images, integer labels), as the network takes them: σ is in the
            units of these images, [0, 1] in the thesis.
        sigmas: Noise levels; one direction of noise serves all of them.
        target: The class of the logit f: `"label"`, `"predicted"` on the clean image, or a class.
        draws: Number of draws of η per image and σ.
        seed: Seed of the noise, which is a function of (seed, draw, image), whatever the batch
            size.
        inputs: Keys or positions of the float inputs that get noise, of several; None for all.
        outputs: What the network's outputs mean: `"exclusive"`, `"binary"` (one logit of two
            classes), `"independent"` or `"regression"`; None for what its compiled loss says. See
            `tfgrad.models.output_meaning`.

    Returns:
        The ratio at each σ, averaged over images and draws, and its standard error over images;
        columns: the logarithm of that ratio; mean and quantiles of the log ratio over images and
        draws, and its root mean square under rounding. Memory is about 100 bytes per image.

    Raises:
        ArgumentError: There is no σ, draw or batch, a σ is below the spacing of the pixels'
            floating-point numbers, or batches are no pairs of images that the network takes and
            integer labels.
        DataError: A label is no class of the network.
        ModelError: The network returns probabilities of no activation that can be left out.
        NonFiniteError: A logit is NaN or infinite.

    Source: thesis §5.5.1; Srinivas and Fleuret, *Rethinking the Role of Gradient-Based Attribution
    Methods for Model Interpretability*, ICLR 2021.
    """
    network = returning_logits(network)
    noises, draws = noise_levels(sigmas), integer("draws", draws)
    target = targets.validated(target, allow_all=False)
    if isinstance(target, targets.Target):
        raise ArgumentError(
            f"target: got {target!r}; expected a class, as the density p(x|y) belongs to one; try "
            "tfgrad.evaluation.pixel_perturbation, which measures any target."
        )
    levels = tf.constant(noises, tf.float64)

    def changes(x: Any, y: Any, first: tf.Tensor) -> tf.Tensor:
        """f(x+η) − f(x), float64 [batch, draws, σ + 1]; the last one for a change of last bits."""
        check_logits(network, x)

        def changes_of(draw: tf.Tensor) -> tf.Tensor:
            probe = Probe(
                network,
                nest_at_least_float32(x),
                y,
                draws=Draws(draw, first),
                sources=float_sources(x, inputs),
            ).in_float32()
            class_scores.check_classes(probe.meaning, "the density of a class")
            classes, clean = probe.classes(target), probe.score(target)
            noise = probe.noise(1, seed)[0]

            def under(shift: Any) -> tf.Tensor:
                return tf.cast(probe.score_at(probe.shifted(shift), classes) - clean, tf.float64)

            noisy = one_by_one(lambda s: under(_scaled(noise, s)), levels, tf.float64)
            rounded = under(_last_bits(probe.differentiated, noise, clean.dtype))
            return tf.concat([noisy, rounded[tf.newaxis]], 0)

        return tf.transpose(one_by_one(changes_of, tf.range(draws), tf.float64), [2, 0, 1])

    moved = _moved(placed(batches, network, target), min(noises), inputs)
    table = per_image(changes, moved)
    check_finite(table, "network: the changes of the logit")
    log_ratios, rounding = table[..., :-1], np.sqrt(np.mean(table[..., -1] ** 2))
    log_mean, log_error = _log_mean(log_ratios)
    with np.errstate(over="ignore"):
        values, errors = np.exp(log_mean), np.exp(log_error)
    columns = {"log of the ratio": log_mean, "log ratio, mean": log_ratios.mean((0, 1))}
    quantiles = np.percentile(log_ratios, QUANTILES, axis=(0, 1))
    columns |= {f"log ratio, {q} %": row for q, row in zip(QUANTILES, quantiles, strict=True)}
    columns["log ratio, rounding"] = np.full(len(noises), rounding)
    return Measurement(
        name="density ratio under input noise",
        score="E p(x+η|y) / p(x|y)",
        direction=LOWER,
        values=tuple(values.tolist()),
        deviations=tuple(errors.tolist()),
        over=f"{len(table)} images, {draws} draw(s) of each (standard error)",
        along="noise σ",
        points=noises,
        columns={name: tuple(row.tolist()) for name, row in columns.items()},
        examples=len(table),
        seed=seed,
    )


def check_moves(sigma: float, x: Any) -> None:
    """Check that noise changes most pixels.

    Args:
        sigma: The smallest standard deviation.
        x: Images [batch, …], or a nest of inputs.

    Raises:
        ArgumentError: σ is below the spacing of the pixels' floating-point numbers.
    """
    spacings = [
        float(np.median(np.spacing(np.abs(nest_at_least_float32(t).numpy()))))
        for t in tf.nest.flatten(x)
        if t.dtype.is_floating
    ]
    if sigma < max(spacings):
        raise ArgumentError(
            f"sigmas: got {sigma:g}; the pixels' numbers are {max(spacings):.1g} apart, so such "
            f"noise leaves most of them unchanged; expected σ ≥ {max(spacings):.1g}. Try float64 "
            "images and a float64 network, which allow smaller ones."
        )


def _moved(batches: Iterator[Placed], sigma: float, inputs: Any) -> Iterator[Placed]:
    """The same batches, after a check that noise changes the pixels of the first one."""
    checked = False
    for batch in batches:
        if not checked:
            float_sources(batch[0], inputs)
            check_moves(sigma, batch[0])
            checked = True
        yield batch


def _log_mean(log_ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logarithms of the mean of exp(·) over [images, draws] and of its standard error, [σ]."""
    highest = log_ratios.max((0, 1))
    ratios = np.exp(log_ratios - highest).mean(1)
    with np.errstate(divide="ignore"):
        return highest + np.log(ratios.mean(0)), highest + np.log(standard_error(ratios))


def _scaled(noise: Any, sigma: tf.Tensor) -> Any:
    return tf.nest.map_structure(lambda t: tf.cast(sigma, t.dtype) * t, noise)


def _last_bits(x: list[tf.Tensor], noise: Any, dtype: tf.DType) -> Any:
    """The smallest relative change of each pixel in a dtype, with the signs of the noise."""
    moves = [
        tf.cast(np.finfo(dtype.as_numpy_dtype).eps, t.dtype) * t * tf.sign(n)
        for t, n in zip(x, tf.nest.flatten(noise), strict=True)
    ]
    return tf.nest.pack_sequence_as(noise, moves)
