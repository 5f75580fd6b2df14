"""The share of a gradient's energy that falls inside a region (thesis Fig. 5.5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, NonFiniteError
from tfgrad.evaluation import networks
from tfgrad.evaluation.batches import (
    check_finite,
    per_image,
    placed,
    where_finite,
)
from tfgrad.evaluation.measurement import HIGHER, Measurement, spread
from tfgrad.evaluation.parts import Part, part_of
from tfgrad.gradients import embeddings, targets
from tfgrad.gradients.forward_pass import EVERY_FLOAT, Needs
from tfgrad.gradients.model_checks import check_logits
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import number, one_of
from tfgrad.models import output_meaning
from tfgrad.saliency import asked

# Names of the scalars in Probe.input_gradient. The loss is −log softmax; the sign does not change
# the energy.
SCALARS = {"logit": "logit", "loss": "log_probability"}


@output_meaning.takes_outputs("network")
def energy_share(
    network: Any,
    batches: Any,
    mask: Any,
    *,
    target: Any = "label",
    of: str = "logit",
    temperature: float = 1.0,
    inputs: Any = None,
    outputs: Any = None,
) -> Measurement:
    """Σ_{h,w,c} m |∇x s| / Σ_{h,w,c} |∇x s| for a region m; its area is the chance level.

    The sums run over all positions and channels: time steps of a series, voxels of a volume.

    It measures how far a network's gradients were fooled into a region, or the share of them that
    falls on an object. The papers' 15×15 corner of 32×32 images has 83.85 % of a fooled network's
    logit-gradients, 48.14 % of its loss-gradients and 60.17 % of those at temperature 1000; chance
    is 22 %.

    Args:
        network: A Keras model from images [batch, height, width, channels] to logits; channels
            come first if its layers have channels first. It may take several inputs, or token ids,
            whose gradients are those at the output of their embedding; with a target that is no
            class, it may return anything.
        batches: A data set of (images, integer labels), as the network takes them. With a target
            that is no class, of inputs alone, or of tuples (inputs, anything).
        mask: The region m, 0 or 1 at each of [height, width], [time] or [depth, height, width].
        target: The class: `"label"`, `"predicted"` or an integer; or a `tfgrad.targets.Target`, or
            a function from the outputs to [batch].
        of: The scalar s: `"logit"`, or `"loss"`, the cross-entropy −log softmax(f / temperature).
        temperature: Temperature of that softmax.
        inputs: The key or position of the input that the mask is of, of several.
        outputs: What the network's outputs mean: `"exclusive"`, `"binary"` (one logit of two
            classes), `"independent"` or `"regression"`; None for what its compiled loss says. See
            `tfgrad.models.output_meaning`.

    Returns:
        Mean and standard deviation of the share over the images, in [0, 1]. Columns: chance, the
        region's area; and the share of images without gradient, all of whose entries are zero
        (loss-gradients of certain predictions), which the mean leaves out.

    Raises:
        ArgumentError: The mask has another size or other values, or is the whole image or none of
            it; `of` is neither of the two; a logit is given a temperature; or batches are no pairs
            of images that the network takes and integer labels.
        DataError: A label is no class of the network.
        ModelError: The network returns probabilities of no activation that can be left out.
        NonFiniteError: A logit or gradient is NaN or infinite, or all gradients are zero.

    Source: thesis §5.7.2, Fig. 5.5.
    """
    target = targets.validated(target, allow_all=False)
    asks = target if isinstance(target, targets.Target) else None
    network = networks.read_by(network, asks)
    scalar, temperature = (
        SCALARS[one_of("of", of, tuple(SCALARS))],
        number("temperature", temperature),
    )
    if of == "logit" and temperature != 1:
        raise ArgumentError(
            f"temperature: got {temperature:g} for of='logit', which has no softmax; expected 1. "
            "Leave it out, or try of='loss'."
        )
    region = _region(mask)

    def energies(x: Any, y: Any, first: tf.Tensor) -> tf.Tensor:
        """Σ |∇x s| inside the region and over the image, float64 [batch, 2]."""
        if asks is None:
            check_logits(network, x)
        part = part_of(x, None, inputs)
        own, axes = part.of(x), part.axes(network, x, tf.constant(region)[tf.newaxis])
        if axes.sizes(own.shape) != region.shape:
            raise ArgumentError(
                f"mask: got shape {region.shape}; the images are {tuple(own.shape[1:])}, so "
                f"expected {axes.sizes(own.shape)}."
            )
        probe = _probe(network, x, None if asks is not None else y, part)
        question = target if asks is None else asked.with_tensors(asks, y)
        slope = tf.nest.flatten(probe.input_gradient(question, scalar, temperature))[0]
        energy = tf.abs(tf.cast(slope, tf.float64))
        # Of token ids the gradient has one more axis, that of the embedding.
        channels = axes.rank if part.of_ids else axes.channels
        energy = energy if channels is None else tf.reduce_sum(energy, channels)
        positions = range(1, energy.shape.rank)
        inside, total = (tf.reduce_sum(e, positions) for e in (energy * region, energy))
        values = probe.logits if asks is None else probe.score(question)[:, tf.newaxis]
        return tf.stack([inside, where_finite(total, values)], -1)

    inside, total = per_image(energies, placed(batches, network, target)).T
    check_finite(total, "network: the logits or gradients")
    some = total > 0
    if not some.any():
        raise NonFiniteError(
            f"network: the {of}-gradient of all {len(total)} images is zero, so that no share "
            "exists; expected one that is not. For certain predictions, try a higher temperature "
            "or of='logit'."
        )
    shares = inside[some] / total[some]
    return Measurement(
        name="gradient energy in a region",
        score="share of gradient energy",
        direction=HIGHER,
        values=(float(shares.mean()),),
        deviations=(float(spread(shares)),),
        over=f"{len(shares)} images",
        columns={"chance": (float(region.mean()),), "without gradient": (float(1 - some.mean()),)},
        examples=len(total),
        percent=True,
    )


def _probe(network: Any, x: Any, y: Any, part: Part) -> Probe:
    """A probe in float32 whose gradients are those of one input."""
    if part.key is None and not part.of_ids:
        sources = EVERY_FLOAT
    else:
        sources = embeddings.sources(network, x, inputs=part.key, find=True)
    needs = Needs(logits=y is not None)
    return Probe(network, x, y, needs=needs, sources=sources).in_float32()


def _region(mask: Any) -> np.ndarray:
    region = np.asarray(mask, np.float64)
    if np.unique(region).tolist() != [0, 1]:
        raise ArgumentError(
            f"mask: got shape {region.shape} with values from {region.min(initial=np.inf):g} to "
            f"{region.max(initial=-np.inf):g}; expected 1 inside the region and 0 outside, and "
            "some of both."
        )
    return region
