"""Generated images, classified by an independent network (thesis Table 5.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation.batches import check_finite
from tfgrad.evaluation.measurement import HIGHER, Measurement
from tfgrad.evaluation.networks import class_count
from tfgrad.gradients import class_scores
from tfgrad.gradients.labels import class_indices
from tfgrad.gradients.model_checks import check_logits, returning_logits
from tfgrad.internal.arguments import integer
from tfgrad.models import output_meaning


@output_meaning.takes_outputs("judge")
def gan_test(
    judge: Any,
    images: Any,
    labels: Any,
    classes: int | None = None,
    batch_size: int = 256,
    *,
    outputs: Any = None,
) -> Measurement:
    """The share of generated images that an independent network puts in the intended class.

    The network, `judge`, is trained on real images and independently of the model that generated.
    The test measures quality, not diversity; higher is better, 1 / classes is chance.

    Args:
        judge: A Keras model from images [batch, …] to logits [batch, classes].
        images: Generated images, float [n, …], as the judge takes them.
        labels: The class that each image was generated for, integers [n] or one-hot rows.
        classes: Number of classes of the generating model, to check that the judge has as many.
        batch_size: Number of images per forward pass.
        outputs: What the judge's outputs mean: `"exclusive"`, `"binary"` (one logit of two
            classes), `"independent"` or `"regression"`; None for what its compiled loss says. See
            `tfgrad.models.output_meaning`.

    Returns:
        The share in [0, 1] and its binomial standard error; as a column the mean probability that
        the judge assigns to the class.

    Raises:
        ArgumentError: The judge has another number of classes or does not take such images, or
            there are not as many labels as images.
        DataError: There is no image, a pixel is NaN or infinite, or a label is no class.
        ModelError: The judge returns probabilities of no activation that can be left out.
        NonFiniteError: A logit of the judge is NaN or infinite.

    Source: thesis §5.5.1, Table 5.1; Shmelkov et al., *How good is my GAN?*, ECCV 2018.
    """
    judge = returning_logits(judge)
    images, size = _images(images), integer("batch_size", batch_size)
    known = class_count(judge, images, "images", "judge")
    check_logits(judge, images[:1])
    if classes is not None and classes != known:
        raise ArgumentError(
            f"judge: got one of {known} classes for samples of {classes}; expected the same "
            "classes. Train the judge on the data set of the model that generated."
        )
    labels = _labels(labels, len(images), known)
    logits = judge.predict(images, batch_size=size, verbose=0)
    check_finite(logits, "judge: the logits")
    meaning = output_meaning.meaning(judge, count=logits.shape[-1])
    found = tf.constant(logits.astype("float64"))
    probabilities = class_scores.probabilities(found, meaning).numpy()
    share = float(np.mean(class_scores.predicted(found, meaning).numpy() == labels))
    return Measurement(
        name="GAN-test",
        score="judged to be of their class",
        direction=HIGHER,
        values=(share,),
        deviations=(math.sqrt(share * (1 - share) / len(images)),),
        over="binomial standard error",
        columns={"mean probability": (float(probabilities[range(len(labels)), labels].mean()),)},
        examples=len(images),
        percent=True,
    )


def _images(images: Any) -> np.ndarray:
    if isinstance(images, Mapping):
        raise ArgumentError(
            f"images: got a {type(images).__name__}; expected float images [n, height, width, "
            "channels], one input, as a sampler returns them."
        )
    images = np.asarray(images)
    if images.dtype.kind != "f" or images.ndim < 2:
        raise ArgumentError(
            f"images: got {images.dtype} {images.shape}; expected float images [n, height, width, "
            "channels]."
        )
    if not len(images):
        raise DataError("images: got none; expected one or more.")
    finite = np.isfinite(images).reshape(len(images), -1).all(-1)
    if not finite.all():
        raise DataError(
            f"images: image {int(finite.argmin())} of {len(images)} holds NaN or infinite pixels; "
            "expected finite ones. The sampler diverged: try a smaller step."
        )
    return images


def _labels(labels: Any, count: int, classes: int) -> np.ndarray:
    try:
        labels = class_indices(np.asarray(labels), classes).numpy()
    except ArgumentError as error:
        raise ArgumentError(f"labels: {str(error).removeprefix('y: ')}") from error
    if labels.shape != (count,):
        raise ArgumentError(
            f"labels: got {labels.dtype} {labels.shape}; expected {count} integers, one for each "
            "image."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"labels: got classes from {labels.min()} to {labels.max()}; expected 0 to "
            f"{classes - 1}, those of the judge."
        )
    return labels
