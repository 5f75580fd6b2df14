"""Pixel perturbation: how a prediction changes when the pixels that a map ranks are replaced."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.evaluation.batches import input_axes, one_by_one, per_image, placed
from tfgrad.evaluation.map_tests import pixel_removal
from tfgrad.evaluation.map_tests.pixel_removal import IMAGE_MEAN
from tfgrad.evaluation.measurement import HIGHER, LOWER, Measurement, counted, standard_error
from tfgrad.gradients import class_scores, output_heads
from tfgrad.gradients.model_checks import check_logits, returning_logits
from tfgrad.internal.arguments import one_of
from tfgrad.models import output_meaning

FRACTIONS = tuple(round(10 ** (-2 + i / 12), 4) for i in range(25))
# The quantity that is measured for each image, and its better direction while salient pixels stay.
SCORES = {
    "accuracy": HIGHER,
    "probability of the label": HIGHER,
    "change of the top probability": LOWER,
    "log density ratio": HIGHER,
    "relative log density ratio": LOWER,
}
# The smallest divisor of a logit, so that a logit of 0 gives a large number and not infinity.
_SMALLEST = 1e-6


@output_meaning.takes_outputs("network")
def pixel_perturbation(
    network: Any,
    batches: Any,
    maps: Any,
    fractions: Iterable[float] = FRACTIONS,
    *,
    remove: str = "least",
    fill: Any = IMAGE_MEAN,
    score: str = "accuracy",
    seed: int = 0,
    outputs: Any = None,
) -> Measurement:
    """Accuracy, probabilities and logits after the least (or most) salient pixels are replaced.

    Of H·W pixels, round(fraction · H·W) are replaced, all channels of a pixel at once; 0 is the
    original image, 1 replaces all. Ties are broken by one random order, the same for all images and
    in all calls (reading order would remove blocks). The maps may be another network's: Fig. 5.3b
    evaluates one network by the gradients of many, which separates the quality of maps from the
    robustness of networks.

    | score                             | for each image; k is the class predicted for x |
    |-----------------------------------|------------------------------------------------|
    | `"accuracy"`                      | whether the label's logit is still the largest |
    | `"probability of the label"`      | softmax(f(x′))_y                               |
    | `"change of the top probability"` | abs(p_k(x′) − p_k(x)) / p_k(x)                 |
    | `"log density ratio"`             | f_y(x′) − f_y(x)                               |
    | `"relative log density ratio"`    | abs(f_k(x′) − f_k(x)) / abs(f_k(x))            |

    The first is that of Fig. 5.3, the third that of Fig. 3.2a. The last two depend on the implicit
    density, not on the decision (§5.4.2); the last must be that of Table 3.2, whose numbers
    exceed 1.

    Args:
        network: A Keras model from images [batch, H, W, C], series, volumes or tables to logits
            [batch, classes]; channels come first if its layers have channels first. A pixel is a
            time step, a voxel or a feature with all its channels.
        batches: A data set of (images, integer labels), as the network takes them.
        maps: The maps that rank pixels: a function of (images, labels) that returns [batch, H, W],
            as every `tfgrad.saliency` method is; an array [n, H, W] for all images in order; or
            `"random"`, the control. Raw values are compared, in their own precision; pass absolute
            ones if the sign should not count.
        fractions: Shares of pixels in [0, 1].
        remove: `"least"` salient first, or `"most"`.
        fill: The replacement: `"image_mean"`, each image's own mean colour; or a number, or one per
            channel, in the units of the images: 0.5 in the code of Fig. 5.3, black in §3.5.1.
        score: A row of the table; the others are among the columns.
        seed: Seed of `"random"`.
        outputs: What the network's outputs mean: `"exclusive"`, `"binary"` (one logit of two
            classes), `"independent"` or `"regression"`; None for what its compiled loss says. See
            `tfgrad.models.output_meaning`.

    Returns:
        The score at each fraction, averaged over images, and its standard error. The direction is
        that of a good map: without the least salient pixels, little should change. Two columns are
        0 in a sound test: "constant maps" counts images whose map ranks nothing, "maps left out"
        those whose map is NaN or infinite, which are not among the `examples`.

    Warns:
        UserWarning: An image was left out.

    Raises:
        ArgumentError: A fraction, name or fill is out of range, maps do not fit the images, or
            batches are no pairs of images that the network takes and integer labels.
        DataError: Every map is NaN or infinite, or constant (all zero, for instance), or a label is
            no class of the network.
        ModelError: The network returns probabilities of no activation that can be left out.
        NonFiniteError: A logit is NaN or infinite.

    Source: thesis §3.5.1, §5.4.2, §5.5.2; Srinivas and Fleuret, ICLR 2021.
    """
    network = returning_logits(network)
    points = pixel_removal.checked_fractions(fractions)
    one_of("remove", remove, ("least", "most"))
    one_of("score", score, tuple(SCORES))
    maps = pixel_removal.checked_maps(maps)

    def perturbed(x_and_map: Any, y: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        """[batch, fractions + 2, scores]; the last two rows flag finite and constant maps."""
        x, saliency = x_and_map
        check_logits(network, x)
        rank = pixel_removal.ranks(saliency)
        size = tf.reduce_prod(tf.shape(saliency)[1:])
        if remove == "most":
            rank = size - 1 - rank
        axes = input_axes(network, x, saliency)
        value = pixel_removal.filling(x, fill, axes)
        logits = _logits(network, x)
        meaning = output_meaning.meaning(network, count=logits.shape[-1])

        def at(fraction: tf.Tensor) -> tf.Tensor:
            count = pixel_removal.pixels_in(fraction, size)
            image = pixel_removal.removed(x, rank, count, value, axes)
            return _scores(_logits(network, image), logits, y, meaning)

        rows = one_by_one(at, tf.constant(points, tf.float64), tf.float32)
        flags = [pixel_removal.finite_maps(saliency), pixel_removal.constant_maps(saliency)]
        columns = tf.repeat(tf.cast(tf.stack(flags), tf.float32)[..., tf.newaxis], len(SCORES), 2)
        return tf.transpose(tf.concat([rows, columns], 0), [1, 0, 2])

    mapped = pixel_removal.mapped(placed(batches, network), maps, seed, network)
    table = per_image(perturbed, mapped).astype(np.float64)
    table, missing = pixel_removal.counted_rows(table, table[:, -2, 0] > 0)
    constant = int(table[:, -1, 0].sum())
    pixel_removal.check_varying(constant, len(table))
    table = table[:, :-2]
    names = list(SCORES)
    means = table.mean(0)
    errors = standard_error(table)
    chosen = names.index(score)
    columns = {name: tuple(means[:, i].tolist()) for i, name in enumerate(names) if i != chosen}
    for name, count in (("constant maps", constant), ("maps left out", missing)):
        columns[name] = (float(count),) * len(points)
    return Measurement(
        name=f"{score} without the {remove} salient pixels",
        score=score,
        direction=SCORES[score] if remove == "least" else _opposite(SCORES[score]),
        values=tuple(means[:, chosen].tolist()),
        deviations=tuple(errors[:, chosen].tolist()),
        over=f"{counted(len(table), 'image')} (standard error)",
        along="fraction of pixels",
        points=points,
        columns=columns,
        examples=len(table),
        seed=seed,
        percent=score in ("accuracy", "probability of the label"),
    )


def _logits(network: Any, x: tf.Tensor) -> tf.Tensor:
    return tf.cast(output_heads.logits(network, network(x, training=False)), tf.float32)


def _scores(logits: tf.Tensor, before: tf.Tensor, y: tf.Tensor, meaning: str) -> tf.Tensor:
    """[batch, scores], in the order of `SCORES`."""
    top = class_scores.predicted(before, meaning)
    now, then = (class_scores.probabilities(f, meaning) for f in (logits, before))
    of_top, logit = class_scores.select(then, top), class_scores.logit(before, top, meaning)
    change = class_scores.logit(logits, top, meaning) - logit
    return tf.stack(
        [
            tf.cast(tf.equal(class_scores.predicted(logits, meaning), y), tf.float32),
            class_scores.select(now, y),
            tf.abs(class_scores.select(now, top) - of_top) / of_top,
            class_scores.logit(logits - before, y, meaning),
            tf.abs(change) / tf.maximum(tf.abs(logit), _SMALLEST),
        ],
        axis=-1,
    )


def _opposite(direction: str) -> str:
    return LOWER if direction == HIGHER else HIGHER
