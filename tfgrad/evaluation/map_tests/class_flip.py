"""Digit flip: how far an image moves to another class without the pixels that argue against it.

Thesis §3.10.1, Table 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation.batches import Placed, per_image, placed
from tfgrad.evaluation.map_tests import pixel_removal
from tfgrad.evaluation.map_tests.mapped_batches import mapped
from tfgrad.evaluation.map_tests.pixel_removal import RANDOM
from tfgrad.evaluation.map_tests.replacement import MOST, Replacement
from tfgrad.evaluation.measurement import HIGHER, Measurement, counted, spread, standard_error
from tfgrad.evaluation.networks import class_count
from tfgrad.evaluation.parts import part_of
from tfgrad.gradients import class_scores, output_heads
from tfgrad.gradients.model_checks import check_logits, returning_logits
from tfgrad.gradients.targets import Target
from tfgrad.internal.arguments import integer, number
from tfgrad.internal.precision import at_least_float32
from tfgrad.models import output_meaning


@output_meaning.takes_outputs("network")
def class_flip(
    network: Any,
    batches: Any,
    maps: Any,
    source: int = 8,
    to: int = 3,
    fraction: float = 0.2,
    *,
    fill: Any = 0.0,
    seed: int = 0,
    inputs: Any = None,
    outputs: Any = None,
) -> Measurement:
    """Δ log-odds of `source` against `to` after the pixels that argue for the difference are gone.

    Let S be the map for `source` minus the map for `to`. Among the pixels where S > 0, the
    round(fraction · H·W) with the largest S, or all if they are fewer, are replaced. With x′ for
    the result:

        Δ = [f_source − f_to](x) − [f_source − f_to](x′),

    the decrease of log p_source / p_to. Ties are broken as in `pixel_perturbation`. The test
    depends on the sign of the maps: if they are absolute, S still shows for which class a pixel
    counts more, but not whether it argues for or against it.

    Args:
        network: A Keras model from images [batch, H, W, C], series, volumes, tables or token ids to
            logits [batch, classes]; channels come first if its layers have channels first. A pixel
            is a time step, a voxel, a token or a feature with all its channels.
        batches: A data set of (images, integer labels), as the network takes them; images of other
            labels than `source` are skipped.
        maps: A function of (images, classes) that returns signed maps [batch, H, W], as every
            `tfgrad.saliency` method is; or `"random"`, normal noise as S, the control. A method of
            a `tfgrad.targets.Target`, which is no class, is rejected.
        source: The class of the images.
        to: The class that they are turned into.
        fraction: The largest share of pixels that is replaced, in [0, 1].
        fill: The replacement, in the units of the images: a number (black is 0 only if images are
            not normalised), one per channel, or `"image_mean"`; of token ids an id.
        seed: Seed of `"random"`.
        inputs: The key or position of the input whose pixels are replaced; see
            `pixel_perturbation`.
        outputs: What the network's outputs mean: `"exclusive"`, `"binary"` (one logit of two
            classes), `"independent"` or `"regression"`; None for what its compiled loss says. See
            `tfgrad.models.output_meaning`.

    Returns:
        The mean of Δ over images; the deviation is its *standard deviation over images*, the ± of
        Table 3.1. Columns: "standard error" of the mean; "turned", the share of images whose
        largest logit is now `to`; "pixels removed", the mean share; "constant maps", the number of
        images with an S of one value, as where a map is the same for all classes; "maps left out",
        the number of those with NaN or infinite values, which are not among the `examples`.

    Warns:
        UserWarning: An image was left out.

    Raises:
        ArgumentError: A class is none of the network, or both are the same; the fraction, the fill
            or the maps do not fit; or batches are no pairs of images that the network takes and
            integer labels.
        DataError: No image has the label `source`, every map is NaN or infinite, or a label is no
            class of the network.
        ModelError: The network returns probabilities of no activation that can be left out.
        NonFiniteError: A logit is NaN or infinite.

    Source: thesis §3.10.1; Shrikumar, Greenside and Kundaje (2017), section 4.1.
    """
    _check_classes_explained(maps)
    network = returning_logits(network)
    source, to = (integer(name, k, lowest=0) for name, k in (("source", source), ("to", to)))
    share = _checked(source, to, number("fraction", fraction, zero=True))

    def flipped(x_and_map: Any, y: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        """For each image: Δ, whether it turned, share removed, whether S is constant and finite."""
        x, difference = x_and_map
        check_logits(network, x)
        finite = pixel_removal.finite_maps(difference)
        changed = Replacement(network, x, difference, part_of(x, maps, inputs), fill)
        # Nothing is removed where S ≤ 0: no count reaches the number of all positions.
        rank = tf.where(difference > 0, changed.order(MOST), tf.size(difference[0]))
        count = pixel_removal.pixels_in(tf.constant(share, tf.float64), changed.size)
        after = _logits(network, changed.without(count, rank))
        fall = _log_odds(_logits(network, x), source, to) - _log_odds(after, source, to)
        turned = tf.argmax(after, -1, tf.int32) == to  # of [0, f] for one logit f
        others = turned, changed.share(count, rank), changed.constant, finite
        return tf.stack([fall, *(tf.cast(t, fall.dtype) for t in others)], -1)

    chosen = _of_class(placed(batches, network, "label"), network, source, to)
    ranked = mapped(chosen, _difference(maps, source, to), seed, network, inputs=_own(maps, inputs))
    table = per_image(flipped, ranked).astype(np.float64)
    table, missing = pixel_removal.counted_rows(table, table[:, -1] > 0, f"maps of class {source}")
    falls, turned, gone, constant, _ = table.T
    columns = {
        "standard error": standard_error(falls),
        "turned": turned.mean(),
        "pixels removed": gone.mean(),
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


def _check_classes_explained(maps: Any) -> None:
    target = getattr(maps, "target", None)
    if isinstance(target, Target):
        raise ArgumentError(
            f"maps: got a method built with target={target!r}; expected one of classes, as this "
            "test compares maps of two classes; try the method without target=, or "
            "tfgrad.evaluation.pixel_perturbation, which measures any target."
        )


def _own(maps: Any, inputs: Any) -> Any:
    """The input that the user chose, or that a method explains."""
    return getattr(maps, "inputs", None) if inputs is None else inputs


def _checked(source: int, to: int, fraction: float) -> float:
    if source == to:
        raise ArgumentError(f"to: got {to}, which is also the source; expected another class.")
    if fraction > 1:
        raise ArgumentError(f"fraction: got {fraction:g}; expected a share of pixels in [0, 1].")
    return fraction


def _difference(maps: Any, source: int, to: int) -> Any:
    """S as a function of (images, labels), or `RANDOM`."""
    if isinstance(maps, str) and maps == RANDOM:
        return maps
    if not callable(maps):
        got = repr(maps) if isinstance(maps, str) else f"a {type(maps).__name__}"
        raise ArgumentError(
            f"maps: got {got}; expected a function of (images, classes), or {RANDOM!r}. Try "
            "tfgrad.saliency.get(name)(model)."
        )

    def difference(x: Any, y: Any) -> tf.Tensor:
        by_class = [maps(x, tf.fill([len(y)], k)) for k in (source, to)]
        by_class = [tf.nest.map_structure(pixel_removal.comparable, one) for one in by_class]
        return tf.nest.map_structure(tf.subtract, *by_class)

    return difference


def _of_class(batches: Iterator[Placed], network: Any, source: int, to: int) -> Iterator[Placed]:
    """The images of one class with their labels, numbered among themselves."""
    found = 0
    labels: set[int] = set()
    for x, y, first in batches:
        if not int(first):
            _check_classes(network, x, source, to)
        y = tf.reshape(y, [-1])
        labels |= set(np.unique(y).tolist())
        x = tf.nest.map_structure(lambda t, y=y: tf.boolean_mask(t, y == source), x)
        y = y[y == source]
        if y.shape[0]:
            yield x, y, tf.constant(found, tf.int64)
            found += y.shape[0]
    if not found:
        raise DataError(
            f"batches: got no image of class {source}, the source; expected some. The labels are "
            f"{sorted(labels)}; pass a source that is among them."
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
    """Logits of all classes, [0, f] for one logit f."""
    logits = at_least_float32(output_heads.logits(network, network(x, training=False)))
    meaning = output_meaning.meaning(network, count=logits.shape[-1])
    class_scores.check_classes(meaning, "a flip from class to class")
    return class_scores.class_logits(logits, meaning)


def _log_odds(logits: tf.Tensor, source: int, to: int) -> tf.Tensor:
    """log p_source / p_to = f_source − f_to, [batch]."""
    return logits[:, source] - logits[:, to]
