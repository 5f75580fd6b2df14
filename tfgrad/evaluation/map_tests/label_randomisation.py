"""Do maps depend on what was learned? Networks that were trained on permuted labels."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfgrad import data
from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation.map_tests.explained_model import ExplainedModel
from tfgrad.evaluation.map_tests.map_stages import SCORE, MapStages, check_some_vary, over_images
from tfgrad.evaluation.measurement import LOWER, Measurement
from tfgrad.internal.arguments import integer
from tfgrad.models import output_meaning


@output_meaning.takes_outputs("model")
def label_randomisation(
    model: Any,
    other: Any,
    images: Any,
    method: Any,
    *,
    target: Any = None,
    batch_size: int = 64,
    inputs: Any = None,
    outputs: Any = None,
) -> Measurement:
    """How similar the maps of a network are to those of one trained on permuted labels.

    A map that explains a decision must differ if the decisions were learned from meaningless
    labels. Train `other` on `permuted_labels(dataset, seed)` until it fits them, from other initial
    weights; otherwise the two networks have these in common.

    Args:
        model: See `randomisation`.
        other: A network of the same input and classes.
        images: Images, float [n, H, W, C], as both networks take them.
        method: See `randomisation`.
        target: What both explain: a class, None for the one that `model` predicts, or any other
            target, see `completeness`.
        batch_size: Number of images per call.
        inputs: See `randomisation`.
        outputs: What the model's outputs mean, see `tfgrad.models.output_meaning`; None for what
            its compiled loss says.

    Returns:
        The absolute value of Spearman's rank correlation, averaged over images, and its standard
        error, which does not contain the variation between several networks `other`. Columns as for
        `randomisation`, without "weights changed".

    Raises:
        ArgumentError: See `randomisation`; or the two are the same network, or do not have the
            same classes.
        DataError: An image holds NaN or infinite pixels, or no map of `model` ranks pixels.
        ModelError: One of the two returns no logits.
        NonFiniteError: A logit is NaN or infinite.

    Source: Adebayo et al. (2018), section 3.3; thesis §3.3.
    """
    explained = ExplainedModel(model, images, target, batch_size, method, inputs)
    twin = ExplainedModel(other, images, explained.asks, batch_size, method, inputs)
    kinds = explained.logits.shape[-1], twin.logits.shape[-1]
    if kinds[0] != kinds[1]:
        raise ArgumentError(
            f"other: got a network of {kinds[1]} classes for a model of {kinds[0]}; expected the "
            "same classes, trained on permuted labels."
        )
    if np.array_equal(explained.logits, twin.logits):
        what = "logits" if explained.asks is None else "values"
        raise ArgumentError(
            f"other: got a network with the {what} of the model on all images; expected one "
            "trained on permuted labels, tfgrad.evaluation.permuted_labels(dataset, seed)."
        )
    twin.ask_as(explained)
    before = explained.maps(explained.function)
    check_some_vary(before, explained.visible)
    found = MapStages(explained, before)
    found.add(twin.maps(twin.function), twin.logits)
    numbers = found.numbers(0)
    del numbers["columns"]["weights changed"]
    return Measurement(
        name="label randomisation",
        score=SCORE,
        direction=LOWER,
        over=over_images(explained),
        examples=len(explained),
        **numbers,
    )


def permuted_labels(dataset: data.Dataset, seed: int) -> data.Dataset:
    """The same images with permuted labels: class sizes stay, labels become meaningless.

    Args:
        dataset: The images with their labels.
        seed: Seed of the permutation.

    Raises:
        ArgumentError: The seed is no integer ≥ 0.
        DataError: All images have one label, which no permutation changes.
    """
    order = np.random.default_rng(integer("seed", seed, lowest=0)).permutation(len(dataset))
    if len(np.unique(dataset.labels)) == 1:
        raise DataError(
            f"dataset: all {len(dataset)} images of {dataset.name!r} have one label, which no "
            "permutation changes; expected images of several classes."
        )
    return dataclasses.replace(dataset, labels=dataset.labels[order])
