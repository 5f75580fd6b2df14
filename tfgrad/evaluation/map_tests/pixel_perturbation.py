"""Pixel perturbation: what is left of a prediction when pixels that a map ranks are replaced."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.evaluation.batches import check_finite, one_by_one, per_image, placed
from tfgrad.evaluation.map_tests.pixel_removal import (
    IMAGE_MEAN,
    check_varying,
    checked_fractions,
    checked_maps,
    constant_maps,
    filling,
    finite_maps,
    left_out,
    mapped,
    pixels_in,
    ranks,
    removed,
)
from tfgrad.evaluation.measurement import HIGHER, LOWER, Measurement, counted, standard_error
from tfgrad.gradients import targets
from tfgrad.gradients.model_checks import check_logits
from tfgrad.internal.arguments import one_of

FRACTIONS = tuple(round(10 ** (-2 + i / 12), 4) for i in range(25))
# What is measured of each image; whether more is better while what matters is kept.
SCORES = {
    "accuracy": HIGHER,
    "probability of the label": HIGHER,
    "change of the top probability": LOWER,
    "log density ratio": HIGHER,
    "relative log density ratio": LOWER,
}
# What a logit is divided by, so that one of 0 gives a large number and not infinity.
_SMALLEST = 1e-6


def pixel_perturbation(
    network,
    batches,
    maps,
    fractions=FRACTIONS,
    *,
    remove="least",
    fill: Any = IMAGE_MEAN,
    score="accuracy",
    seed=0,
) -> Measurement:
    """Accuracy, probabilities and logits once the least (or most) salient pixels are replaced.

    Of H·W pixels, round(fraction · H·W) are replaced, all channels of a pixel at once; 0 is the
    image as it is, 1 replaces all. Among equal values one random order decides, the same for all
    images and at any time (reading order would remove blocks). The maps may be another network's:
    Fig. 5.3b judges one network by the gradients of many, which tells maps apart from the
    robustness of networks.

    | score                             | of each image; k is the class predicted for x |
    |-----------------------------------|-----------------------------------------------|
    | `"accuracy"`                      | is the label's logit still the largest?       |
    | `"probability of the label"`      | softmax(f(x′))_y                              |
    | `"change of the top probability"` | abs(p_k(x′) − p_k(x)) / p_k(x)                |
    | `"log density ratio"`             | f_y(x′) − f_y(x)                              |
    | `"relative log density ratio"`    | abs(f_k(x′) − f_k(x)) / abs(f_k(x))           |

    The first is Fig. 5.3's, the third Fig. 3.2a's. The last two tell of the implicit density, not
    of the decision (§5.4.2); the last is what Table 3.2 must be, whose numbers exceed 1.

    Args:
        network: a Keras model from images [batch, H, W, C] to logits [batch, classes]; channels
            come first where `keras.config.image_data_format()` says so.
        batches: a data set of (images, integer labels), as the network takes them.
        maps: what ranks the pixels: a function of (images, labels) that returns [batch, H, W], as
            every `tfgrad.saliency` method is; an array [n, H, W] for all images in order; or
            `"random"`, the control. Raw values, compared in their own precision: the sign counts,
            pass absolute ones if it should not.
        fractions: shares of pixels in [0, 1].
        remove: `"least"` salient first, or `"most"`.
        fill: `"image_mean"`, each image's own mean colour; or a number, or one per channel, in the
            units of the images: 0.5 in the code of Fig. 5.3, black in §3.5.1.
        score: a row of the table; all are among the columns.
        seed: of `"random"`.

    Returns:
        The score at each fraction, averaged over images, and its standard error. The direction is
        that of a good map: with the least salient removed, little should change. Two columns are 0
        in a sound test: "constant maps" counts images whose map ranks nothing, "maps left out"
        those whose map is NaN or infinite, which are not among the `examples`.

    Warns:
        UserWarning: an image was left out.

    Raises:
        ArgumentError: a fraction, name or fill is out of range, maps do not fit the images, or
            batches are no pairs of images that the network takes and integer labels.
        DataError: every map is NaN or infinite, or constant (all zero, for instance), or a label is
            no class of the network.
        ModelError: the network returns probabilities.
        NonFiniteError: a logit is NaN or infinite.

    Source: thesis §3.5.1, §5.4.2, §5.5.2; Srinivas and Fleuret, ICLR 2021.
    """
    fractions = checked_fractions(fractions)
    one_of("remove", remove, ("least", "most"))
    one_of("score", score, tuple(SCORES))
    maps = checked_maps(maps)

    def perturbed(x_and_map, y, first):
        """[batch, fractions + 2, scores]: last the rows of finite and of constant maps."""
        x, saliency = x_and_map
        check_logits(network, x)
        rank = ranks(saliency)
        size = tf.reduce_prod(tf.shape(saliency)[1:])
        if remove == "most":
            rank = size - 1 - rank
        value = filling(x, fill)
        logits = _logits(network, x)
        y = targets.classes("label", logits, y)

        def at(fraction):
            image = removed(x, rank, pixels_in(fraction, size), value)
            return _scores(_logits(network, image), logits, y)

        rows = one_by_one(at, tf.constant(fractions, tf.float64), tf.float32)
        flags = tf.cast(tf.stack([finite_maps(saliency), constant_maps(saliency)]), tf.float32)
        flags = tf.repeat(flags[..., tf.newaxis], len(SCORES), 2)
        return tf.transpose(tf.concat([rows, flags], 0), [1, 0, 2])

    ranked = mapped(placed(batches, network), maps, seed)
    table = per_image(perturbed, ranked).astype(np.float64)
    finite = table[:, -2, 0] > 0
    missing = left_out(finite)
    # Set to 0 and not dropped yet, so that a message counts as the data set does.
    check_finite(np.where(finite[:, np.newaxis, np.newaxis], table, 0), "network: the logits")
    table = table[finite]
    constant = int(table[:, -1, 0].sum())
    check_varying(constant, len(table))
    table = table[:, :-2]
    names = list(SCORES)
    means = table.mean(0)
    errors = standard_error(table)
    chosen = names.index(score)
    columns = {name: tuple(means[:, i].tolist()) for i, name in enumerate(names) if i != chosen}
    for name, count in (("constant maps", constant), ("maps left out", missing)):
        columns[name] = (float(count),) * len(fractions)
    return Measurement(
        name=f"{score} without the {remove} salient pixels",
        score=score,
        direction=SCORES[score] if remove == "least" else _opposite(SCORES[score]),
        values=tuple(means[:, chosen].tolist()),
        deviations=tuple(errors[:, chosen].tolist()),
        over=f"{counted(len(table), 'image')} (standard error)",
        along="fraction of pixels",
        points=fractions,
        columns=columns,
        examples=len(table),
        seed=seed,
        percent=score in ("accuracy", "probability of the label"),
    )


def _logits(network: Any, x: tf.Tensor) -> tf.Tensor:
    return tf.cast(network(x, training=False), tf.float32)


def _scores(logits: tf.Tensor, before: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """[batch, scores], in the order of `SCORES`."""
    top = tf.argmax(before, -1, tf.int32)
    now, then = tf.nn.softmax(logits), tf.nn.softmax(before)
    of_top, logit = targets.select(then, top), targets.select(before, top)
    return tf.stack(
        [
            tf.cast(tf.equal(tf.argmax(logits, -1, tf.int32), y), tf.float32),
            targets.select(now, y),
            tf.abs(targets.select(now, top) - of_top) / of_top,
            targets.select(logits - before, y),
            tf.abs(targets.select(logits, top) - logit) / tf.maximum(tf.abs(logit), _SMALLEST),
        ],
        axis=-1,
    )


def _opposite(direction: str) -> str:
    return LOWER if direction == HIGHER else HIGHER
