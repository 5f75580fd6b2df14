"""Completeness: does a map add up to the score, or to its rise over a baseline's?"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad import decomposition
from tfgrad.errors import ModelError
from tfgrad.evaluation.map_tests.axioms import broadcast_to_image, of_finite, single_measurement
from tfgrad.evaluation.map_tests.explained_model import ExplainedModel, built
from tfgrad.evaluation.measurement import LOWER, Measurement
from tfgrad.models import output_meaning
from tfgrad.saliency import Smooth


@output_meaning.takes_outputs("model")
def completeness(
    model: Any,
    images: Any,
    method: Any,
    *,
    target: Any = None,
    baseline: Any = None,
    batch_size: int = 64,
    outputs: Any = None,
) -> Measurement:
    """How far a map is from adding up to the score, or to its rise over a baseline's.

        abs(Σ S − r) / (abs(Σ S) + abs(r)),   r = f_y(x) or f_y(x) − f_y(x′),

    in [0, 1]. 0: complete; 0.33: off by a factor of two; 1: the sum is zero or has the opposite
    sign. Input × gradient and the full-gradient decomposition complete f (the former only without
    biases), integrated gradients the rise over their baseline.

    Args:
        model: A built Keras model from images to logits, or a `PenalizedModel` of one.
        images: Images, float [n, H, W, C], as the model takes them.
        method: A function from a model to a function of (images, classes) that returns maps
            [b, H, W], such as `tfgrad.saliency.get("integrated_gradients")`.
        target: The class y: None for the predicted one, an int, or ints [n].
        baseline: The image x′, a number or an array that broadcasts to one image. None takes the
            attribute `baseline` of the method, or of the method that `tfgrad.saliency.Smooth`
            averages; without one, r = f_y(x).
        batch_size: Number of images per call.
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
    explained = ExplainedModel(model, images, target, batch_size)
    function = built(method, explained.network)
    rise = explained.of_class(explained.logits)
    baseline = _own_baseline(function) if baseline is None else baseline
    if baseline is not None:
        rise -= explained.of_class(explained.forward(_baselines(baseline, explained.batches)))
    with np.errstate(invalid="ignore"):
        total = explained.maps(function).astype(np.float64)
        total = total.sum(tuple(range(1, total.ndim)))
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


def _own_baseline(function: Any) -> Any:
    """The x′ of a method of integration, smoothed or not; None for other methods."""
    while isinstance(function, Smooth):
        function = function.method
    return getattr(function, "baseline", None)


def _baselines(value: Any, batches: list[tf.Tensor]) -> list[tf.Tensor]:
    image = broadcast_to_image("baseline", value, batches[0])
    return [tf.broadcast_to(tf.constant(image, x.dtype), x.shape) for x in batches]


def _decomposed(explained: ExplainedModel) -> np.ndarray:
    """The completeness error of the full-gradients, [n]; NaN if they do not exist."""

    def error(x: tf.Tensor, classes: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        probe = explained.probe(x, decomposition.NEEDS)
        return decomposition.of_probe(probe, classes).completeness_error()

    try:
        return explained.each(explained.compiled(error))
    except (ModelError, tf.errors.InvalidArgumentError):
        return np.full(len(explained), np.nan)
