"""Density ratios of a classifier's implicit density under noise (thesis §5.5.1, Fig. 5.1)."""

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.evaluation.batches import check_finite, noise_levels, one_by_one, per_image, placed
from tfgrad.evaluation.measurement import LOWER, Measurement, standard_error
from tfgrad.gradients import targets
from tfgrad.gradients.model_checks import check_logits
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer
from tfgrad.internal.precision import nest_at_least_float32
from tfgrad.internal.stateless_noise import Draws

SIGMAS = tuple(np.geomspace(1e-4, 1e-1, 13).tolist())
QUANTILES = (5, 25, 50, 75, 95)


def density_ratios(
    network, batches, sigmas=SIGMAS, *, target="label", draws=1, seed=0
) -> Measurement:
    """E p(x+η|y) / p(x|y) = E exp(f_y(x+η) − f_y(x)), η ~ N(0, σ²I); lower is better.

    Over images that come from the model's own density the expected ratio is 1 at every σ, most
    images far below; a model that prefers noise to images is far above 1. The mean is dominated by
    its largest terms, so read it with the quantiles of the logarithm f_y(x+η) − f_y(x). It is taken
    in log space and float64; where a ratio itself is beyond float64 it is infinite, and its
    logarithm is in the columns.

    Logits are float32 or wider, whatever the network's dtype policy. What their rounding alone does
    to the logarithm is measured, by a change of each pixel's last bit, and reported as "log ratio,
    rounding": where the quantiles lie no further apart than this, they show rounding.

    Args:
        network: a Keras model from images [batch, …] to logits [batch, classes].
        batches: a data set of (images, integer labels), as the network takes them: σ is in the
            units of these images, [0, 1] in the thesis.
        sigmas: noise levels; one direction of noise serves all of them.
        target: whose logit f is: `"label"`, `"predicted"` on the clean image, or a class.
        draws: of η per image and σ.
        seed: of the noise, a function of (seed, draw, image), whatever the size of a batch.

    Returns:
        The ratio at each σ, averaged over images and draws, and its standard error over images;
        columns: the logarithm of that ratio; mean and quantiles of the log ratio over images and
        draws, and its root mean square under rounding. About 100 bytes an image are kept.

    Raises:
        ArgumentError: there is no σ, draw or batch, a σ is below the spacing of the pixels'
            floating-point numbers, or batches are no pairs of images that the network takes and
            integer labels.
        DataError: a label is no class of the network.
        ModelError: the network returns probabilities.
        NonFiniteError: a logit is NaN or infinite.

    Source: thesis §5.5.1; Srinivas and Fleuret, *Rethinking the Role of Gradient-Based Attribution
    Methods for Model Interpretability*, ICLR 2021.
    """
    sigmas, draws = noise_levels(sigmas), integer("draws", draws)
    target = targets.validated(target, allow_all=False)
    levels = tf.constant(sigmas, tf.float64)

    def changes(x, y, first):
        """f(x+η) − f(x), float64 [batch, draws, σ], and last under a change of the last bits."""
        check_logits(network, x)

        def of(draw):
            probe = Probe(
                network, nest_at_least_float32(x), y, draws=Draws(draw, first)
            ).in_float32()
            classes, clean = probe.classes(target), probe.score(target)
            noise = probe.noise(1, seed)[0]

            def under(shift):
                moved = targets.select(probe.forward(probe.shifted(shift)), classes)
                return tf.cast(moved - clean, tf.float64)

            noisy = one_by_one(lambda s: under(_scaled(noise, s)), levels, tf.float64)
            rounded = under(_last_bits(probe.x, noise, clean.dtype))
            return tf.concat([noisy, rounded[tf.newaxis]], 0)

        return tf.transpose(one_by_one(of, tf.range(draws), tf.float64), [2, 0, 1])

    moved = _moved(placed(batches, network, target), min(sigmas))
    table = per_image(changes, moved)
    check_finite(table, "network: the changes of the logit")
    log_ratios, rounding = table[..., :-1], np.sqrt(np.mean(table[..., -1] ** 2))
    log_mean, log_error = _log_mean(log_ratios)
    with np.errstate(over="ignore"):
        values, errors = np.exp(log_mean), np.exp(log_error)
    columns = {"log of the ratio": log_mean, "log ratio, mean": log_ratios.mean((0, 1))}
    quantiles = np.percentile(log_ratios, QUANTILES, axis=(0, 1))
    columns |= {f"log ratio, {q} %": row for q, row in zip(QUANTILES, quantiles, strict=True)}
    columns["log ratio, rounding"] = np.full(len(sigmas), rounding)
    return Measurement(
        name="density ratio under input noise",
        score="E p(x+η|y) / p(x|y)",
        direction=LOWER,
        values=tuple(values.tolist()),
        deviations=tuple(errors.tolist()),
        over=f"{len(table)} images, {draws} draw(s) of each (standard error)",
        along="noise σ",
        points=sigmas,
        columns={name: tuple(row.tolist()) for name, row in columns.items()},
        examples=len(table),
        seed=seed,
    )


def check_moves(sigma, x):
    """Refuse noise that leaves most pixels where they are.

    Args:
        sigma: the smallest standard deviation.
        x: images [batch, …], or a nest of inputs.

    Raises:
        ArgumentError: it is below the spacing of the pixels' floating-point numbers.
    """
    spacings = [
        float(np.median(np.spacing(np.abs(nest_at_least_float32(t).numpy()))))
        for t in tf.nest.flatten(x)
        if t.dtype.is_floating
    ]
    if sigma < max(spacings):
        raise ArgumentError(
            f"sigmas: got {sigma:g}; the pixels' numbers are {max(spacings):.1g} apart, and such "
            "noise leaves most of them as they are. Expected σ above that; float64 images and a "
            "float64 network allow smaller ones."
        )


def _moved(batches, sigma):
    """The same batches, once the first one's pixels are known to be moved."""
    checked = False
    for batch in batches:
        if not checked:
            check_moves(sigma, batch[0])
            checked = True
        yield batch


def _log_mean(log_ratios):
    """Logarithms of the mean of exp(·) over [images, draws] and of its standard error, [σ]."""
    highest = log_ratios.max((0, 1))
    ratios = np.exp(log_ratios - highest).mean(1)
    with np.errstate(divide="ignore"):
        return highest + np.log(ratios.mean(0)), highest + np.log(standard_error(ratios))


def _scaled(noise, sigma):
    return tf.nest.map_structure(lambda t: tf.cast(sigma, t.dtype) * t, noise)


def _last_bits(x, noise, dtype):
    """The smallest relative change that a dtype knows of each pixel, with the noise's signs."""
    floats = [t for t in tf.nest.flatten(x) if t.dtype.is_floating]
    moves = [
        tf.cast(np.finfo(dtype.as_numpy_dtype).eps, t.dtype) * t * tf.sign(n)
        for t, n in zip(floats, tf.nest.flatten(noise), strict=True)
    ]
    return tf.nest.pack_sequence_as(noise, moves)
