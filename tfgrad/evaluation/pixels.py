"""Pixel perturbation: what is left of a prediction when pixels that a map ranks are replaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad import targets
from tfgrad.arguments import one_of
from tfgrad.classifiers import check_logits
from tfgrad.draws import Draws
from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation._inputs import (
    Placed,
    channel_axis,
    check_finite,
    image_size,
    one_by_one,
    per_image,
    placed,
)
from tfgrad.evaluation.measurement import HIGHER, LOWER, Measurement

FRACTIONS = tuple(round(10 ** (-2 + i / 12), 4) for i in range(25))
RANDOM, IMAGE_MEAN = "random", "image_mean"
# What is measured of each image; whether more is better while what matters is kept.
SCORES = {
    "accuracy": HIGHER,
    "probability of the label": HIGHER,
    "change of the top probability": LOWER,
    "log density ratio": HIGHER,
}


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
    image as it is, 1 replaces all. Among equal values the first in reading order counts as the less
    salient, so that the count is exact. The maps may be another network's: Fig. 5.3b judges one
    network by the gradients of many, which tells maps apart from the robustness of networks.

    | score                             | of each image                                          |
    |-----------------------------------|--------------------------------------------------------|
    | `"accuracy"`                      | is the label's logit still the largest? (Fig. 5.3)     |
    | `"probability of the label"`      | softmax(f(x′))_y                                       |
    | `"change of the top probability"` | abs(p(x′) − p(x)) / p(x), the class predicted for x    |
    | `"log density ratio"`             | f_y(x′) − f_y(x)                                       |

    The third is Fig. 3.2a's. The last tells of the implicit density, not of the decision (§5.4.2).

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
        that of a good map: with the least salient removed, little should change. The column
        "constant maps" counts images whose map ranks nothing, and is 0 in a sound test.

    Raises:
        ArgumentError: a fraction, name or fill is out of range, maps do not fit the images, or
            batches are no pairs of images that the network takes and integer labels.
        DataError: a map is NaN or infinite, every map is constant (all zero, for instance), or a
            label is no class of the network.
        ModelError: the network returns probabilities.
        NonFiniteError: a logit is NaN or infinite.

    Source: thesis §3.5.1, §5.4.2, §5.5.2; Srinivas and Fleuret, ICLR 2021.
    """
    fractions = _checked_fractions(fractions)
    one_of("remove", remove, ("least", "most"))
    one_of("score", score, tuple(SCORES))
    maps = _checked_maps(maps)

    def perturbed(x_and_map, y, first):
        """[batch, fractions + 1, scores]: last the row that tells of constant maps."""
        x, saliency = x_and_map
        check_logits(network, x)
        rank = _ranks(saliency)
        size = tf.reduce_prod(tf.shape(saliency)[1:])
        if remove == "most":
            rank = size - 1 - rank
        value = _fill(x, fill)
        logits = _logits(network, x)
        y = targets.classes("label", logits, y)

        def at(fraction):
            count = tf.math.floor(fraction * tf.cast(size, tf.float64) + 0.5)
            replaced = tf.expand_dims(rank < tf.cast(count, tf.int32), channel_axis())
            image = tf.where(replaced, value, x)
            return _scores(_logits(network, image), logits, y)

        rows = one_by_one(at, tf.constant(fractions, tf.float64), tf.float32)
        constant = tf.equal(tf.reduce_max(saliency, [1, 2]), tf.reduce_min(saliency, [1, 2]))
        flags = tf.repeat(tf.cast(constant, tf.float32)[:, tf.newaxis], len(SCORES), 1)
        return tf.transpose(tf.concat([rows, flags[tf.newaxis]], 0), [1, 0, 2])

    mapped = _mapped(placed(batches, network), maps, seed)
    table = per_image(perturbed, mapped).astype(np.float64)
    constant = int(table[:, -1, 0].sum())
    if constant == len(table):
        raise DataError(
            f"maps: all {constant} are constant, so they rank no pixel; expected maps that vary. "
            "Look at the gradients: a saturated or dead network has none."
        )
    table = table[:, :-1]
    check_finite(table, "network: the logits")
    names = list(SCORES)
    means = table.mean(0)
    errors = table.std(0) / np.sqrt(len(table))
    chosen = names.index(score)
    columns = {name: tuple(means[:, i].tolist()) for i, name in enumerate(names) if i != chosen}
    columns["constant maps"] = (float(constant),) * len(fractions)
    return Measurement(
        name=f"{score} without the {remove} salient pixels",
        score=score,
        direction=SCORES[score] if remove == "least" else _opposite(SCORES[score]),
        values=tuple(means[:, chosen].tolist()),
        deviations=tuple(errors[:, chosen].tolist()),
        over=f"{len(table)} images (standard error)",
        along="fraction of pixels",
        points=fractions,
        columns=columns,
        examples=len(table),
        seed=seed,
        percent=score in ("accuracy", "probability of the label"),
    )


def _checked_maps(maps: Any) -> Any:
    """A function of (images, labels), an array, or the word `RANDOM`."""
    if isinstance(maps, str) and maps != RANDOM:
        raise ArgumentError(
            f"maps: got {maps!r}; expected a function of (images, labels), an array "
            f"[n, H, W], or {RANDOM!r}. tfgrad.saliency.get(name)(model) makes a function."
        )
    return maps if isinstance(maps, str) or callable(maps) else np.asarray(maps)


def _mapped(batches: Iterator[Placed], maps: Any, seed: int) -> Iterator[Placed]:
    """Batches ((images, maps), labels, the first one's index), maps made as they are read."""
    read = 0
    for x, y, first in batches:
        expected = (x.shape[0], *image_size(x))
        read += x.shape[0]
        if isinstance(maps, str):
            found = Draws(0, first).normal(tf.gather(x, 0, axis=channel_axis()), 1, seed)[0]
        elif callable(maps):
            found = maps(x, y)
        else:
            found = maps[int(first) : read]
        found = tf.convert_to_tensor(found)
        if tuple(found.shape) != expected:
            raise ArgumentError(
                f"maps: got shape {tuple(found.shape)} for images {tuple(x.shape)}; expected "
                f"{expected}. An array needs a map for every image; sum a gradient over its "
                "channels first."
            )
        yield (x, _comparable(found, int(first))), y, first
    if isinstance(maps, np.ndarray) and len(maps) != read:
        raise ArgumentError(f"maps: got {len(maps)} for {read} images; expected one each.")


def _comparable(maps: tf.Tensor, first: int) -> tf.Tensor:
    """Maps in their own floating type, whole numbers in float64, all finite."""
    if not maps.dtype.is_floating:
        maps = tf.cast(maps, tf.float64)
    finite = tf.reduce_all(tf.math.is_finite(maps), [1, 2])
    if not tf.reduce_all(finite):
        index = first + int(tf.argmin(tf.cast(finite, tf.int32)))
        raise DataError(
            f"maps: that of image {index} holds NaN or infinite values, which rank nothing."
        )
    return maps


def _ranks(values: tf.Tensor) -> tf.Tensor:
    """The position of each pixel in ascending order, first come first: int32 [batch, H, W]."""
    flat = tf.reshape(values, [tf.shape(values)[0], -1])
    order = tf.argsort(flat, stable=True)
    return tf.reshape(tf.argsort(order), tf.shape(values))


def _fill(x: tf.Tensor, fill: Any) -> tf.Tensor:
    """What replaces pixels of the images, to be broadcast."""
    sides = [axis for axis in (1, 2, 3) if axis != channel_axis()]
    channels = x.shape[channel_axis()]
    if isinstance(fill, str):
        one_of("fill", fill, (IMAGE_MEAN,))
        return tf.reduce_mean(x, sides, keepdims=True)
    value = np.asarray(fill)
    if value.dtype.kind not in "iuf" or not np.isfinite(value).all():
        raise ArgumentError(f"fill: got {fill!r}; expected {IMAGE_MEAN!r} or finite numbers.")
    if value.shape not in ((), (1,), (channels,)):
        raise ArgumentError(
            f"fill: got shape {value.shape}; expected one number, or one for each of the "
            f"{channels} channels."
        )
    return tf.cast(np.expand_dims(np.atleast_1d(value), [axis - 1 for axis in sides]), x.dtype)


def _logits(network: Any, x: tf.Tensor) -> tf.Tensor:
    return tf.cast(network(x, training=False), tf.float32)


def _scores(logits: tf.Tensor, before: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """[batch, scores], in the order of `SCORES`."""
    top = tf.argmax(before, -1, tf.int32)
    now, then = tf.nn.softmax(logits), tf.nn.softmax(before)
    of_top = targets.select(then, top)
    return tf.stack(
        [
            tf.cast(tf.equal(tf.argmax(logits, -1, tf.int32), y), tf.float32),
            targets.select(now, y),
            tf.abs(targets.select(now, top) - of_top) / of_top,
            targets.select(logits - before, y),
        ],
        axis=-1,
    )


def _checked_fractions(fractions: Iterable[float]) -> tuple[float, ...]:
    found = tuple(float(fraction) for fraction in fractions)
    if not found or not all(0 <= fraction <= 1 for fraction in found):
        raise ArgumentError(f"fractions: got {list(found)}; expected numbers in [0, 1].")
    return found


def _opposite(direction: str) -> str:
    return LOWER if direction == HIGHER else HIGHER
