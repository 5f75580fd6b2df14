"""Pixel perturbation: how a prediction changes when the pixels that a map ranks are replaced."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.evaluation import networks
from tfgrad.evaluation.batches import one_by_one, per_image, placed
from tfgrad.evaluation.map_tests import pixel_removal
from tfgrad.evaluation.map_tests.mapped_batches import checked_maps, mapped
from tfgrad.evaluation.map_tests.perturbation_scores import (
    SCORES,
    ClassScores,
    TargetScores,
    by_size,
    checked_score,
)
from tfgrad.evaluation.map_tests.pixel_removal import IMAGE_MEAN
from tfgrad.evaluation.map_tests.replacement import LEAST, MOST, Replacement
from tfgrad.evaluation.measurement import HIGHER, LOWER, Measurement, counted, standard_error
from tfgrad.evaluation.parts import Part, part_of
from tfgrad.gradients.targets import Target
from tfgrad.internal.arguments import one_of
from tfgrad.models import output_meaning

__all__ = ["FRACTIONS", "SCORES", "pixel_perturbation"]

FRACTIONS = tuple(round(10 ** (-2 + i / 12), 4) for i in range(25))
_OF_IDS = (
    " A fill that the network masks, such as padding, may leave it without any token, whose mean "
    "is 0/0; try the id of a mask token, or fractions below 1."
)


@output_meaning.takes_outputs("network")
def pixel_perturbation(
    network: Any,
    batches: Any,
    maps: Any,
    fractions: Iterable[float] = FRACTIONS,
    *,
    remove: str = "least",
    fill: Any = IMAGE_MEAN,
    score: str | None = None,
    seed: int = 0,
    target: Any = None,
    inputs: Any = None,
    outputs: Any = None,
) -> Measurement:
    """Accuracy, probabilities and logits after the least (or most) salient pixels are replaced.

    Of a regression, or any other target, its value.

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

    The first, the default, is that of Fig. 5.3, the third that of Fig. 3.2a. The last two depend on
    the implicit density, not on the decision (§5.4.2); the last must be that of Table 3.2, whose
    numbers exceed 1.

    Of a target s, whose choices are made once, at x:

    | score                            | for each example                |
    |----------------------------------|---------------------------------|
    | `"size of the change"`           | abs(s(x′) − s(x)); the default  |
    | `"change of the score"`          | s(x′) − s(x)                    |
    | `"relative change of the score"` | abs(s(x′) − s(x)) / abs(s(x))   |

    The first and the last are of sizes, and pixels are ranked by the absolute values of maps: what
    moves s in either direction is salient. The second takes maps as they are: what a signed map
    ranks lowest argues against a high s, and without it s rises.

    Of several inputs, parts of one are replaced and the others are held, because maps of several
    inputs have no common scale. Of token ids a pixel is a token, which `fill` replaces; steps that
    the network masks at their embedding are neither replaced nor counted.

    Args:
        network: A Keras model from images [batch, H, W, C], series, volumes, tables or token ids
            [batch, time] to logits [batch, classes]; channels come first if its layers have
            channels first. A pixel is a time step, a voxel or a feature with all its channels. It
            may take several inputs, and with a target return any outputs.
        batches: A data set of (images, integer labels), as the network takes them. With a target, a
            data set of inputs, or of tuples (inputs, anything).
        maps: The maps that rank pixels: a function of (images, labels) that returns [batch, H, W],
            as every `tfgrad.saliency` method is; an array [n, H, W] for all images in order; or
            `"random"`, the control. Raw values are compared, in their own precision; pass absolute
            ones if the sign of a map of classes should not count. With a target a function of
            (inputs, target). Of several inputs a function may return maps in their structure, and
            arrays come as a dict.
        fractions: Shares of pixels in [0, 1].
        remove: `"least"` salient first, or `"most"`.
        fill: The replacement: `"image_mean"`, each image's own mean colour; or a number, or one per
            channel, in the units of the images: 0.5 in the code of Fig. 5.3, black in §3.5.1. Of
            token ids it must be given: the id of padding or of a mask token.
        score: A row of the table; the others are among the columns. None for the default.
        seed: Seed of `"random"`.
        target: The scalar that is measured in the place of classes: a `tfgrad.targets.Target`, or a
            function from the outputs to [batch]; None for that of the method, else for the only
            output of a regression, else for the classes of the labels.
        inputs: The key or position of the input whose parts are replaced. None for the one that is
            explained, if it is a single one.
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
            batches are no pairs of images that the network takes and integer labels; the target
            contradicts that of the method; or nothing tells which of several inputs is meant.
        DataError: Every map is NaN or infinite, or constant (all zero, for instance), or a label is
            no class of the network.
        ModelError: The network returns probabilities of no activation that can be left out.
        NonFiniteError: A logit, or the value of the target, is NaN or infinite.

    Source: thesis §3.5.1, §5.4.2, §5.5.2; Srinivas and Fleuret, ICLR 2021.
    """
    asks = networks.target_of(network, maps, target)
    network = networks.read_by(network, asks)
    points = pixel_removal.checked_fractions(fractions)
    one_of("remove", remove, (LEAST, MOST))
    score, scores = checked_score(score, asks)
    maps = checked_maps(maps)
    parts: list[Part] = []

    def perturbed(x_and_map: Any, y: Any, first: tf.Tensor) -> tf.Tensor:
        """[batch, fractions + 2, scores]; the last two rows flag finite and constant maps."""
        x, saliency = x_and_map
        saliency = tf.abs(saliency) if by_size(score) else saliency
        parts.append(part_of(x, maps, inputs))
        changed = Replacement(network, x, saliency, parts[-1], fill)
        order = changed.order(remove)
        measured = _measured(network, x, y, asks)
        rows = one_by_one(
            lambda fraction: measured.at(changed.at(fraction, order)),
            tf.constant(points, tf.float64),
            measured.dtype,
        )
        flags = [pixel_removal.finite_maps(saliency), changed.constant]
        columns = tf.repeat(tf.cast(tf.stack(flags), rows.dtype)[..., tf.newaxis], len(scores), 2)
        return tf.transpose(tf.concat([rows, columns], 0), [1, 0, 2])

    read = placed(batches, network, "label" if asks is None else asks)
    ranked = mapped(read, maps, seed, network, target=asks, inputs=inputs)
    table = per_image(perturbed, ranked).astype(np.float64)
    what = "logits" if asks is None else f"values of {asks!r}"
    hint = _OF_IDS if parts[0].of_ids else ""
    table, missing = pixel_removal.counted_rows(table, table[:, -2, 0] > 0, what=what, hint=hint)
    constant = int(table[:, -1, 0].sum())
    pixel_removal.check_varying(constant, len(table))
    table = table[:, :-2]
    names = list(scores)
    means = table.mean(0)
    errors = standard_error(table)
    chosen = names.index(score)
    columns = {name: tuple(means[:, i].tolist()) for i, name in enumerate(names) if i != chosen}
    for name, count in (("constant maps", constant), ("maps left out", missing)):
        columns[name] = (float(count),) * len(points)
    pixels = "tokens" if parts[0].of_ids else "pixels"
    return Measurement(
        name=_name(score, asks, f"the {remove} salient {pixels}", parts[0]),
        score=score,
        direction=scores[score] if remove == LEAST else _opposite(scores[score]),
        values=tuple(means[:, chosen].tolist()),
        deviations=tuple(errors[:, chosen].tolist()),
        over=f"{counted(len(table), 'image')} (standard error)",
        along=f"fraction of {pixels}",
        points=points,
        columns=columns,
        examples=len(table),
        seed=seed,
        percent=score in ("accuracy", "probability of the label"),
    )


def _measured(network: Any, x: Any, y: Any, target: Target | None) -> ClassScores | TargetScores:
    """What is measured at x and at what it becomes; y holds labels, or a target's values."""
    if target is None:
        return ClassScores(network, x, y)
    return TargetScores(network, x, target, y)


def _name(score: str, target: Target | None, what: str, part: Part) -> str:
    of_target = "" if target is None else f" of {target.name}"
    of_input = "" if part.key is None else f" of input {part.key!r}"
    return f"{score}{of_target} without {what}{of_input}"


def _opposite(direction: str) -> str:
    return LOWER if direction == HIGHER else HIGHER
