"""Digit flip: how far an image moves to another class without the pixels that argue against it.

Thesis §3.10.1, Table 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation.batches import Placed, check_finite, class_count, per_image, placed
from tfgrad.evaluation.map_tests.pixel_removal import (
    RANDOM,
    comparable,
    constant_maps,
    filling,
    finite_maps,
    left_out,
    mapped,
    pixels_in,
    ranks,
    removed,
)
from tfgrad.evaluation.measurement import HIGHER, Measurement, counted, spread, standard_error
from tfgrad.gradients.model_checks import check_logits
from tfgrad.internal.arguments import integer, number


def class_flip(
    network, batches, maps, source=8, to=3, fraction=0.2, *, fill: Any = 0.0, seed=0
) -> Measurement:
    """Δ log-odds of `source` against `to` once the pixels that argue for the difference are gone.

    With S the map for `source` minus the map for `to`, of the pixels where S > 0 the
    round(fraction · H·W) with the largest S, or all if they are fewer, are replaced. That gives x′:

        Δ = [f_source − f_to](x) − [f_source − f_to](x′),

    the fall of log p_source / p_to. Ties are broken as in `pixel_perturbation`. The sign of the
    maps is what is tested: where they are absolute, S still tells which class looks more at a
    pixel, but not for or against.

    Args:
        network: a Keras model from images [batch, H, W, C] to logits [batch, classes]; channels
            come first where `keras.config.image_data_format()` says so.
        batches: a data set of (images, integer labels), as the network takes them; images of other
            labels than `source` are passed over.
        maps: a function of (images, classes) that returns signed maps [batch, H, W], as every
            `tfgrad.saliency` method is; or `"random"`, normal noise as S, the control.
        source: the class of the images.
        to: the class that they are turned into.
        fraction: the share of pixels in [0, 1] that is replaced at most.
        fill: what replaces them, in the units of the images: a number (black is 0 only where images
            are not normalised), one per channel, or `"image_mean"`.
        seed: of `"random"`.

    Returns:
        The mean of Δ over images; the deviation is its *standard deviation over images*, the ± of
        Table 3.1. Columns: "standard error" of the mean; "turned", the share of images whose
        largest logit is now `to`; "pixels removed", the mean share; "constant maps", how many
        images had an S of one value, as where a map is that of all classes; "maps left out", how
        many had one with NaN or infinite values, which are not among the `examples`.

    Warns:
        UserWarning: an image was left out.

    Raises:
        ArgumentError: a class is none of the network, or both are the same; the fraction, the fill
            or the maps do not fit; or batches are no pairs of images that the network takes and
            integer labels.
        DataError: no image has the label `source`, every map is NaN or infinite, or a label is no
            class of the network.
        ModelError: the network returns probabilities.
        NonFiniteError: a logit is NaN or infinite.

    Source: thesis §3.10.1; Shrikumar, Greenside and Kundaje (2017), section 4.1.
    """
    source, to = (integer(name, k, lowest=0) for name, k in (("source", source), ("to", to)))
    fraction = _checked(source, to, number("fraction", fraction, zero=True))

    def flipped(x_and_map, y, first):
        """Of each image: Δ, whether it turned, the share removed, whether S is constant, finite."""
        x, difference = x_and_map
        check_logits(network, x)
        finite = finite_maps(difference)
        size = tf.size(difference[0])
        # Nothing is removed where S ≤ 0: no count reaches the rank `size`.
        rank = tf.where(difference > 0, size - 1 - ranks(difference), size)
        count = pixels_in(tf.constant(fraction, tf.float64), size)
        after = _logits(network, removed(x, rank, count, filling(x, fill)))
        fall = _log_odds(_logits(network, x), source, to) - _log_odds(after, source, to)
        turned = tf.argmax(after, -1, tf.int32) == to
        share = tf.reduce_mean(tf.cast(rank < count, tf.float32), [1, 2])
        others = turned, share, constant_maps(difference), finite
        return tf.stack([fall, *(tf.cast(t, fall.dtype) for t in others)], -1)

    chosen = _of_class(placed(batches, network, "label"), network, source, to)
    table = per_image(flipped, mapped(chosen, _difference(maps, source, to), seed))
    table = table.astype(np.float64)
    finite = table[:, -1] > 0
    missing = left_out(finite, f"maps of class {source}")
    check_finite(np.where(finite, table[:, 0], 0), "network: the logits")
    table = table[finite]
    falls, turned, share, constant, _ = table.T
    columns = {
        "standard error": standard_error(falls),
        "turned": turned.mean(),
        "pixels removed": share.mean(),
        "constant maps": constant.sum(),
        "maps left out": missing,
    }
    return Measurement(
        name=f"class flip {source} → {to}",
        score="Δ log-odds",
        direction=HIGHER,
        values=(float(falls.mean()),),
        deviations=(float(spread(falls)),),
        over=f"{counted(len(falls), 'image')} (standard deviation)",
        columns={name: (float(value),) for name, value in columns.items()},
        examples=len(falls),
        seed=seed,
    )


def _checked(source: int, to: int, fraction: float) -> float:
    if source == to:
        raise ArgumentError(f"to: got {to}, which is the source too; expected another class.")
    if fraction > 1:
        raise ArgumentError(f"fraction: got {fraction:g}; expected a share of pixels in [0, 1].")
    return fraction


def _difference(maps: Any, source: int, to: int) -> Any:
    """S as a function of (images, labels), or the word `RANDOM`."""
    if isinstance(maps, str) and maps == RANDOM:
        return maps
    if not callable(maps):
        got = repr(maps) if isinstance(maps, str) else f"a {type(maps).__name__}"
        raise ArgumentError(
            f"maps: got {got}; expected a function of (images, class), as "
            f"tfgrad.saliency.get(name)(model) makes, or {RANDOM!r}."
        )

    def difference(x: Any, y: Any) -> tf.Tensor:
        of_source, of_to = (comparable(maps(x, tf.fill([len(y)], k))) for k in (source, to))
        return of_source - of_to

    return difference


def _of_class(batches: Iterator[Placed], network: Any, source: int, to: int) -> Iterator[Placed]:
    """The images of one class, and the labels, counted anew."""
    found, labels = 0, set()
    for x, y, first in batches:
        if not int(first):
            _check_classes(network, x, source, to)
        y = tf.reshape(y, [-1])
        labels |= set(np.unique(y).tolist())
        x, y = tf.boolean_mask(x, y == source), y[y == source]
        if y.shape[0]:
            yield x, y, tf.constant(found, tf.int64)
            found += y.shape[0]
    if not found:
        raise DataError(
            f"batches: got no image of class {source}, the source; their labels are "
            f"{sorted(labels)}. Pass a source that is among them."
        )


def _check_classes(network: Any, x: Any, source: int, to: int) -> None:
    classes = class_count(network, x)
    for name, k in (("source", source), ("to", to)):
        if k >= classes:
            raise ArgumentError(
                f"{name}: got class {k}; the network has {classes} logits, so expected 0 to "
                f"{classes - 1}."
            )


def _logits(network: Any, x: tf.Tensor) -> tf.Tensor:
    logits = network(x, training=False)
    return tf.cast(logits, tf.float32) if logits.dtype.size < 4 else logits


def _log_odds(logits: tf.Tensor, source: int, to: int) -> tf.Tensor:
    """log p_source / p_to = f_source − f_to, [batch]."""
    return logits[:, source] - logits[:, to]
