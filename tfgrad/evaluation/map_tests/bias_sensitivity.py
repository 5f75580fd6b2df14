"""Bias sensitivity: does a map change with the biases that change the score?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfgrad.errors import DataError
from tfgrad.evaluation.map_tests.axioms import (
    HALVINGS,
    SAME_REGION,
    of_finite,
    single_measurement,
)
from tfgrad.evaluation.map_tests.explained_model import ExplainedModel
from tfgrad.evaluation.map_tests.map_similarity import relative_change
from tfgrad.evaluation.map_tests.reinitialise import move_biases, restored
from tfgrad.evaluation.measurement import HIGHER, Measurement
from tfgrad.internal.arguments import integer, number
from tfgrad.models import output_meaning


@output_meaning.takes_outputs("model")
def bias_sensitivity(
    model: Any,
    images: Any,
    method: Any,
    step: float = 1e-2,
    *,
    target: Any = None,
    seed: int = 0,
    draws: int = 5,
    batch_size: int = 64,
    inputs: Any = None,
    outputs: Any = None,
) -> Measurement:
    """How much a map changes if each bias is scaled by 1 + step or 1 − step.

        ‖S′ − S‖ / (step ‖S‖),

    over the images whose logit changes. For the input-gradient of a ReLU network this is exactly 0;
    a full-gradient map changes with every bias that has a place in the image (thesis §3.4.1,
    Example 2), but not with that of a logit. Both hold within a linear region, so the step is
    halved up to ten times per image until the gradient of the logit is the original one. An image
    for which that is not enough is left out; on a smooth network, where no image remains, the
    smallest step counts. Each sign is drawn at random, because a common factor cancels in maps
    whose layers are rescaled, FullGrad's included. The change depends more on these signs than on
    the image, so several draws are averaged.

    The weights called `bias`, `beta` and `moving_mean` of all layers are scaled: the biases of
    dense, convolutional and recurrent layers, and β and the running mean of norms, which share one
    sign per channel so that the intercept β − γμ/√(v + ε) is scaled as a whole. Intercepts of
    activations, and biases of custom layers under other names, stay. The weights change in the
    model itself and are restored afterwards, bit by bit.

    Args:
        model: See `completeness`.
        images: See `completeness`.
        method: See `completeness`.
        step: The largest relative step, above 0.
        target: See `completeness`.
        seed: Seed of the signs.
        draws: Number of draws of all signs that are averaged, image by image.
        batch_size: See `completeness`.
        inputs: The key or position of the input whose maps are compared, of several; None for the
            one that is explained, if it is a single one.
        outputs: What the model's outputs mean, see `tfgrad.models.output_meaning`; None for what
            its compiled loss says.

    Returns:
        The mean over images and its standard error over images and draws. Columns: "median" over
        the images; and counts over all draws: "regions left", "logits unmoved" and "maps left out",
        the number of images that left their linear region at every step (all: see above), whose
        logit does not depend on the biases, or whose map is zero, NaN or infinite.

    Raises:
        ArgumentError: An argument does not fit the model or the images.
        DataError: No image counts.
        ModelError: The model has no such weight, or all are zero.
        NonFiniteError: A logit is NaN or infinite.
    """
    step, seed = number("step", step), integer("seed", seed, lowest=0)
    explained = ExplainedModel(model, images, target, batch_size, method, inputs)
    seeds = [[seed, draw] for draw in range(integer("draws", draws))]
    found = [_by_biases(explained, step, one) for one in seeds]
    change, logits_change, left = (np.stack(rows) for rows in zip(*found, strict=True))
    moved = logits_change != 0
    if not moved.any():
        raise DataError(
            f"images: biases scaled by 1 ± {step:g} move the logit of none of {len(explained)}; "
            "expected at least one. Try a larger step, or another class."
        )
    counted = moved & (~left | left[moved].all())
    values = np.where(counted, change, np.nan)
    return single_measurement(
        "bias sensitivity",
        "relative change of the map",
        HIGHER,
        values,
        {
            "median": of_finite(np.median, values),
            "regions left": np.sum(left),
            "logits unmoved": np.sum(~moved),
        },
        missing=np.sum(counted & np.isnan(values)),
        seed=seed,
        drawn="signs",
    )


def _by_biases(
    explained: ExplainedModel, step: float, seed: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each image: the map's change by the step, the logit's change, whether its region changed.

    They are those of the largest step that leaves the input-gradient as it was.
    """
    function = explained.function
    gradient = explained.compiled(lambda x, target, first: explained.gradient(x, target))
    maps, slopes = explained.maps(function), explained.each(gradient)
    score = explained.of_class(explained.logits)
    found = np.zeros((2, len(explained)))
    pending = np.ones(len(explained), bool)
    with restored(explained.network) as restore:
        for k in range(HALVINGS + 1):
            restore()
            move_biases(explained.network, step / 2**k, seed)
            stays = pending & ~(relative_change(slopes, explained.each(gradient)) > SAME_REGION)
            now = pending if k == HALVINGS else stays
            if now.any():
                change = relative_change(maps, explained.maps(function)) / (step / 2**k)
                moved = explained.of_class(explained.forward()) - score
                found[:, now] = np.stack([change, moved])[:, now]
            pending = pending & ~stays
            if not pending.any():
                break
    return found[0], found[1], pending
