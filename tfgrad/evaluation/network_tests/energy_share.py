"""The share of a gradient's energy that falls inside a region (thesis Fig. 5.5)."""

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, NonFiniteError
from tfgrad.evaluation.batches import (
    channel_axis,
    check_finite,
    image_size,
    per_image,
    placed,
    where_finite,
)
from tfgrad.evaluation.measurement import HIGHER, Measurement, spread
from tfgrad.gradients import targets
from tfgrad.gradients.model_checks import check_logits
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import number, one_of

# Of Probe.input_gradient; the loss is −log softmax, whose gradient has the same energy.
OF = {"logit": "logit", "loss": "log_probability"}


def energy_share(
    network, batches, mask, *, target="label", of="logit", temperature=1.0
) -> Measurement:
    """Σ_{h,w,c} m |∇x s| / Σ_{h,w,c} |∇x s| of a region m; its area is what chance gives.

    How far the gradients of a network were fooled into a region, or how much of them falls on an
    object. The papers' 15×15 corner of 32×32 images has 83.85 % of a fooled network's logit-
    gradients, 48.14 % of its loss-gradients and 60.17 % of those at temperature 1000; chance is
    22 %.

    Args:
        network: a Keras model from images [batch, height, width, channels] to logits; channels
            come first where `keras.config.image_data_format()` says so.
        batches: a data set of (images, integer labels), as the network takes them.
        mask: m, 0 or 1 at each of [height, width].
        target: the class: `"label"`, `"predicted"` or a number.
        of: the scalar s: `"logit"`, or `"loss"`, the cross-entropy −log softmax(f / temperature).
        temperature: of that softmax.

    Returns:
        Mean and deviation of the share over the images, in [0, 1]. Columns: chance, the region's
        area; and the share of images without gradient, all of whose entries are zero (loss-
        gradients of sure predictions), which the mean leaves out.

    Raises:
        ArgumentError: the mask has another size or other values, or is the whole image or none of
            it; `of` is none of the two; a logit is given a temperature; or batches are no pairs of
            images that the network takes and integer labels.
        DataError: a label is no class of the network.
        ModelError: the network returns probabilities.
        NonFiniteError: a logit or gradient is NaN or infinite, or all gradients are zero.

    Source: thesis §5.7.2, Fig. 5.5.
    """
    target = targets.validated(target, allow_all=False)
    scalar, temperature = OF[one_of("of", of, tuple(OF))], number("temperature", temperature)
    if of == "logit" and temperature != 1:
        raise ArgumentError(
            f"temperature: got {temperature:g} for of='logit', which has no softmax; leave it out, "
            "or take of='loss'."
        )
    mask = _region(mask)

    def energies(x, y, first):
        """Σ |∇x s| inside the region and in all, float64 [batch, 2]."""
        check_logits(network, x)
        if image_size(x) != mask.shape:
            raise ArgumentError(
                f"mask: got shape {mask.shape}; the images are {tuple(x.shape[1:])}, so expected "
                f"{image_size(x)}."
            )
        probe = Probe(network, x, y).in_float32()
        gradient = tf.cast(probe.input_gradient(target, scalar, temperature), tf.float64)
        energy = tf.reduce_sum(tf.abs(gradient), channel_axis())
        inside, total = tf.reduce_sum(energy * mask, [1, 2]), tf.reduce_sum(energy, [1, 2])
        return tf.stack([inside, where_finite(total, probe.logits)], -1)

    inside, total = per_image(energies, placed(batches, network, target)).T
    check_finite(total, "network: the logits or gradients")
    some = total > 0
    if not some.any():
        raise NonFiniteError(
            f"network: the {of}-gradient of all {len(total)} images is zero, and no share of it "
            "exists. Where predictions are sure, take a higher temperature or of='logit'."
        )
    shares = inside[some] / total[some]
    return Measurement(
        name="gradient energy in a region",
        score="share of gradient energy",
        direction=HIGHER,
        values=(float(shares.mean()),),
        deviations=(float(spread(shares)),),
        over=f"{len(shares)} images",
        columns={"chance": (float(mask.mean()),), "without gradient": (float(1 - some.mean()),)},
        examples=len(total),
        percent=True,
    )


def _region(mask):
    region = np.asarray(mask, np.float64)
    if np.unique(region).tolist() != [0, 1]:
        raise ArgumentError(
            f"mask: got shape {region.shape} with values from {region.min(initial=np.inf):g} to "
            f"{region.max(initial=-np.inf):g}; expected 1 inside the region and 0 outside, and "
            "some of both."
        )
    return region
