"""Shift agreement: does one function have one map in shifted units of its images?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.evaluation.map_tests.axioms import broadcast_to_image, of_finite, single_measurement
from tfgrad.evaluation.map_tests.explained_model import ExplainedModel
from tfgrad.evaluation.map_tests.map_similarity import rank_correlation, relative_change
from tfgrad.evaluation.measurement import HIGHER, Measurement
from tfgrad.evaluation.parts import Part
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
    inputs: Any = None,
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
        inputs: The key or position of the input that is shifted, of several; the others are held,
            and its maps are compared. None for the one that is explained, if it is a single one.
        outputs: What the model's outputs mean, see `tfgrad.models.output_meaning`; None for what
            its compiled loss says.

    Returns:
        Spearman's rank correlation of the two maps, its mean over images and standard error.
        Columns: "relative difference", the mean of ‖S′ − S‖ / ‖S‖; "maps left out", the number of
        maps that are constant, NaN or infinite.

    Raises:
        ArgumentError: An argument does not fit the model or the images; or the input holds token
            ids, which have no units.
        DataError: All maps are constant, NaN or infinite.
        ModelError: The model returns no logits.
        NonFiniteError: A logit is NaN or infinite.

    Source: Kindermans et al., "The (Un)reliability of Saliency Methods" (2017), section 2.
    """
    explained = ExplainedModel(model, images, target, batch_size, method, inputs)
    part = explained.part
    if part.of_ids:
        raise ArgumentError(
            "images: got token ids, which have no units to shift; expected a float input; try "
            "tfgrad.evaluation.randomisation, which takes ids."
        )
    own = [part.of(x) for x in explained.batches]
    if shift is None:
        shift = np.ptp(np.concatenate(own)).item()
    offset = broadcast_to_image("shift", shift, own[0])
    if not offset.any():
        raise ArgumentError(
            "shift: got zero, or images of one value; expected a number or an array that moves "
            "images."
        )
    maps = explained.maps(explained.function)
    shifted = [
        part.replaced(x, t + tf.constant(offset, t.dtype))
        for x, t in zip(explained.batches, own, strict=True)
    ]
    twin = explained.built(_shifted(explained.network, explained.batches[0], part, offset))
    moved = explained.maps(twin, shifted)
    change = relative_change(maps, moved)
    return single_measurement(
        "shift agreement",
        "rank correlation",
        HIGHER,
        rank_correlation(maps, moved),
        {"relative difference": of_finite(np.mean, change)},
    )


def _shifted(network: keras.Model, x: Any, part: Part, offset: np.ndarray) -> keras.Model:
    """f(x − c) as a model."""
    offset = offset.ravel()[0] if np.ptp(offset) == 0 else offset
    if part.key is None:
        dtype = model_checks.input_dtype(network)
        inputs: Any = keras.Input(x.shape[1:], dtype=dtype)
    else:
        dtype = part.of(x).dtype.name
        pairs = x.items() if isinstance(x, Mapping) else enumerate(x)
        found = {
            key: keras.Input(t.shape[1:], dtype=t.dtype.name, name=str(key)) for key, t in pairs
        }
        inputs = found if isinstance(x, Mapping) else [*found.values()]
    own = keras.layers.Rescaling(1.0, -offset, dtype=dtype)(part.of(inputs))
    moved = keras.Model(inputs, network(part.replaced(inputs, own)))
    return output_meaning.inherit(moved, network)
