"""Completeness: does a map add up to the score, or to its rise over a baseline's?"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad import decomposition
from tfgrad.errors import ModelError
from tfgrad.evaluation.map_tests.axioms import broadcast_to_image, of_finite, single_measurement
from tfgrad.evaluation.map_tests.explained_model import ExplainedModel
from tfgrad.evaluation.measurement import LOWER, Measurement
from tfgrad.models import output_meaning
from tfgrad.saliency import IntegratedGradients, Smooth, baselines
from tfgrad.saliency.explained import explained as explained_of


@output_meaning.takes_outputs("model")
def completeness(
    model: Any,
    images: Any,
    method: Any,
    *,
    target: Any = None,
    baseline: Any = None,
    batch_size: int = 64,
    inputs: Any = None,
    outputs: Any = None,
) -> Measurement:
    """How far a map is from adding up to the score, or to its rise over a baseline's.

        abs(Σ S − r) / (abs(Σ S) + abs(r)),   r = f_y(x) or f_y(x) − f_y(x′),

    in [0, 1]. 0: complete; 0.33: off by a factor of two; 1: the sum is zero or has the opposite
    sign. Input × gradient and the full-gradient decomposition complete f (the former only without
    biases), integrated gradients the rise over their baseline.

    Args:
        model: A built Keras model from images to logits, or a `PenalizedModel` of one; for a target
            that is no class, a model with any outputs.
        images: Images, float [n, H, W, C], as the model takes them; series, volumes, tables, token
            ids, or a dict or list of several inputs.
        method: A function from a model to a function of (images, classes) that returns maps
            [b, H, W], such as `tfgrad.saliency.get("integrated_gradients")`; a class of methods is
            built for the target and the `inputs`. Of several inputs, maps in their structure.
        target: The class y: None for the predicted one, an int, or ints [n]; or in the place of f_y
            a `tfgrad.targets.Target`, or a function from the outputs to [batch]. None takes a
            `Target` that the method is built for.
        baseline: The image x′, a number or an array that broadcasts to one image. Of several inputs
            a number, or a dict of these for what is explained; of token ids an id. None takes the
            attribute `baseline` of the method, or of the method that `tfgrad.saliency.Smooth`
            averages; without one, r = f_y(x).
        batch_size: Number of images per call.
        inputs: Keys or positions of the inputs that are explained, of several. S is the sum over
            the maps of all of them, and the others are held.
        outputs: What the model's outputs mean, see `tfgrad.models.output_meaning`; None for what
            its compiled loss says.

    Returns:
        The mean over images and its standard error. Columns: "of the score", the median of
        abs(Σ S − r) / abs(r); "full-gradients", the median of the same for `tfgrad.full_gradients`
        with r = f_y(x), which is rounding, and NaN where the model cannot be decomposed; "maps left
        out", the number of maps that are NaN or infinite.

    Raises:
        ArgumentError: An argument does not fit the model or the images.
        DataError: An image holds NaN or infinite pixels, or no map is finite.
        ModelError: The model returns no logits.
        NonFiniteError: A logit is NaN or infinite.

    Source: thesis Definitions 2 and 4; Sundararajan, Taly and Yan (2017), section 3.
    """
    explained = ExplainedModel(model, images, target, batch_size, method, inputs)
    rise = _rise(explained, baseline, inputs)
    with np.errstate(invalid="ignore"):
        total = explained.totals(explained.function)
        miss, size = np.abs(total - rise), np.abs(total) + np.abs(rise)
    return single_measurement(
        "completeness",
        "relative error of the sum",
        LOWER,
        np.where(np.isfinite(size), miss / np.where(size > 0, size, 1), np.nan),
        {
            "of the score": of_finite(np.median, miss / np.where(rise == 0, np.nan, np.abs(rise))),
            "full-gradients": of_finite(np.median, _decomposed(explained)),
        },
    )


def _rise(explained: ExplainedModel, baseline: Any, inputs: Any) -> np.ndarray:
    """r of each example, [n] float64."""
    rise = explained.of_class(explained.logits)
    method = explained.function
    while isinstance(method, Smooth):
        method = method.method
    if baseline is None and not explained.is_plain and isinstance(method, IntegratedGradients):
        # At embeddings, where the mask is that of x.
        return explained.each(
            explained.compiled(
                lambda x, target, first: method.rise(method.probe(x, target), target)
            )
        ).astype(np.float64)
    baseline = getattr(method, "baseline", None) if baseline is None else baseline
    if baseline is None:
        return rise
    if explained.is_plain:
        there = _baselines(baseline, explained.batches)
    else:
        start = baselines.checked(baseline)
        there = [_at_baseline(explained, start, x, inputs) for x in explained.batches]
    return rise - explained.of_class(explained.forward(there))


def _baselines(value: Any, batches: list[tf.Tensor]) -> list[tf.Tensor]:
    image = broadcast_to_image("baseline", value, batches[0])
    return [tf.broadcast_to(tf.constant(image, x.dtype), x.shape) for x in batches]


def _at_baseline(explained: ExplainedModel, value: Any, x: Any, inputs: Any) -> Any:
    """The inputs, with x′ in the places of those that are explained."""
    found = explained_of(explained.network, x, inputs, getattr(explained.function, "at", None))
    own = baselines.of_each(value, found)
    flat = tf.nest.flatten(x if not found.of_ids else baselines.with_ids(own, found, x))
    places = [place for place, chosen in enumerate(found.chosen) if chosen]
    for index, (place, one) in enumerate(zip(places, own, strict=True)):
        if index not in found.of_ids:
            start = baselines.fitting(one, flat[place].shape[1:], found.keys[index])
            flat[place] = tf.broadcast_to(tf.constant(start, flat[place].dtype), flat[place].shape)
    return tf.nest.pack_sequence_as(x, flat)


def _decomposed(explained: ExplainedModel) -> np.ndarray:
    """The completeness error of the full-gradients, [n]; NaN if they do not exist."""

    def error(x: Any, target: Any, first: tf.Tensor) -> tf.Tensor:
        probe = explained.probe(x, decomposition.NEEDS)
        return decomposition.of_probe(probe, target).completeness_error()

    try:
        return explained.each(explained.compiled(error))
    except (ModelError, tf.errors.InvalidArgumentError):
        return np.full(len(explained), np.nan)
