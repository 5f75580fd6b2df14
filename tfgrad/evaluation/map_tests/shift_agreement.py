"""Shift agreement: does one function have one map in shifted units of its images?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.evaluation.map_tests.axioms import broadcast_to_image, of_finite, single_measurement
from tfgrad.evaluation.map_tests.explained_model import ExplainedModel, built
from tfgrad.evaluation.map_tests.map_similarity import rank_correlation, relative_change
from tfgrad.evaluation.measurement import HIGHER, Measurement
from tfgrad.gradients import model_checks
from tfgrad.models import output_meaning


@output_meaning.takes_outputs("model")
def shift_agreement(
    model: Any,
    images: Any,
    method: Any,
    shift: Any = None,
    *,
    target: Any = None,
    batch_size: int = 64,
    outputs: Any = None,
) -> Measurement:
    """Whether one function has one map in shifted units of its images.

    S(x; f) is compared with S(x + c; f(· − c)). The input-gradient agrees up to rounding, input ×
    gradient does not; methods with a baseline agree if it is shifted, too.

    Args:
        model: See `completeness`.
        images: See `completeness`.
        method: See `completeness`; it is also built around a model whose first layer is a
            `keras.layers.Rescaling` with offset −c.
        shift: The shift c, a finite number or an array that broadcasts to one image, not all zero;
            None takes the range of the images, from their smallest value to their largest.
        target: See `completeness`.
        batch_size: See `completeness`.
        outputs: What the model's outputs mean, see `tfgrad.models.output_meaning`; None for what
            its compiled loss says.

    Returns:
        Spearman's rank correlation of the two maps, its mean over images and standard error.
        Columns: "relative difference", the mean of ‖S′ − S‖ / ‖S‖; "maps left out", the number of
        maps that are constant, NaN or infinite.

    Raises:
        ArgumentError: An argument does not fit the model or the images.
        DataError: All maps are constant, NaN or infinite.
        ModelError: The model returns no logits.
        NonFiniteError: A logit is NaN or infinite.

    Source: Kindermans et al., "The (Un)reliability of Saliency Methods" (2017), section 2.
    """
    explained = ExplainedModel(model, images, target, batch_size)
    if shift is None:
        shift = np.ptp(np.concatenate(explained.batches)).item()
    offset = broadcast_to_image("shift", shift, explained.batches[0])
    if not offset.any():
        raise ArgumentError(
            "shift: got zero, or images of one value; expected a number or an array that moves "
            "images."
        )
    maps = explained.maps(built(method, explained.network))
    shifted = [x + tf.constant(offset, x.dtype) for x in explained.batches]
    twin = built(method, _shifted(explained.network, offset))
    moved = explained.maps(twin, shifted)
    change = relative_change(maps, moved)
    return single_measurement(
        "shift agreement",
        "rank correlation",
        HIGHER,
        rank_correlation(maps, moved),
        {"relative difference": of_finite(np.mean, change)},
    )


def _shifted(network: keras.Model, offset: np.ndarray) -> keras.Model:
    """f(x − c) as a model."""
    dtype = model_checks.input_dtype(network)
    x = keras.Input(offset.shape, dtype=dtype)
    offset = offset.ravel()[0] if np.ptp(offset) == 0 else offset
    moved = keras.Model(x, network(keras.layers.Rescaling(1.0, -offset, dtype=dtype)(x)))
    return output_meaning.inherit(moved, network)
