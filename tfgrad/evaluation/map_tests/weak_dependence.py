"""Weak dependence: does a map stay the same within a linear region of its network?"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation.map_tests.axioms import (
    HALVINGS,
    SAME_REGION,
    of_finite,
    single_measurement,
)
from tfgrad.evaluation.map_tests.explained_model import ExplainedModel
from tfgrad.evaluation.map_tests.map_similarity import relative_change
from tfgrad.evaluation.measurement import LOWER, Measurement
from tfgrad.internal.arguments import integer, number
from tfgrad.internal.stateless_noise import Draws
from tfgrad.models import output_meaning


@output_meaning.takes_outputs("model")
def weak_dependence(
    model: Any,
    images: Any,
    method: Any,
    step: float = 1e-3,
    *,
    target: Any = None,
    seed: int = 0,
    batch_size: int = 64,
    inputs: Any = None,
    outputs: Any = None,
) -> Measurement:
    """How much a map changes with an image that stays within its linear region.

        ‖S(x′) − S(x)‖ / ‖S(x)‖ ÷ ‖x′ − x‖ / ‖x‖,

    0 for a map that depends weakly on inputs, as the input-gradient of a piecewise linear network
    does; about 1 for input × gradient. x′ − x is Gaussian noise of `step` times the norm of x,
    halved up to ten times per image until the gradient of the logit at x′ is that at x. An image
    for which that is not enough is left out: a smooth network has no linear regions.

    Args:
        model: See `completeness`.
        images: See `completeness`.
        method: See `completeness`.
        step: The largest move relative to the norm of an image, above 0. Changes of maps below
            about 1e-7 ÷ step are rounding of float32.
        target: See `completeness`.
        seed: Seed of the noise.
        batch_size: See `completeness`.
        inputs: The key or position of the input that moves, of several; the others are held, and
            its maps are compared. None for the one that is explained, if it is a single one.
        outputs: What the model's outputs mean, see `tfgrad.models.output_meaning`; None for what
            its compiled loss says.

    Returns:
        The mean over images and its standard error. Columns: "move", the mean of ‖x′ − x‖ / ‖x‖;
        "regions left" and "maps left out", the number of images that do not count because they left
        their region, or because their map is zero, NaN or infinite.

    Raises:
        ArgumentError: An argument does not fit the model or the images; or the input holds token
            ids, which cannot move by little.
        DataError: No image counts.
        ModelError: The model returns no logits.
        NonFiniteError: A logit is NaN or infinite.

    Source: thesis Definitions 1 and 3, Prop. 4.
    """
    step, seed = number("step", step), integer("seed", seed, lowest=0)
    explained = ExplainedModel(model, images, target, batch_size, method, inputs)
    part = explained.part
    if part.of_ids:
        raise ArgumentError(
            "images: got token ids, which cannot move within a linear region; expected a float "
            "input; try tfgrad.evaluation.pixel_perturbation, which replaces tokens."
        )
    moves = explained.each(explained.compiled(_moves(explained, step, seed)))
    stayed = np.isfinite(moves).reshape(len(moves), -1).all(1)
    if not stayed.any():
        raise DataError(
            f"images: none of {len(moves)} stays within a linear region when it moves by "
            f"{step / 2**HALVINGS:.1e} of its norm; expected a piecewise linear network (softplus "
            "and GELU are smooth). Try a smaller step."
        )
    moves[~stayed] = 0
    there, start = [], 0
    for x in explained.batches:
        own = part.of(x)
        there.append(part.replaced(x, own + moves[start : start + own.shape[0]]))
        start += own.shape[0]
    function = explained.function
    change = relative_change(explained.maps(function), explained.maps(function, there))
    here, moved = (np.concatenate([part.of(x) for x in b]) for b in (explained.batches, there))
    lengths = relative_change(here, moved)
    values = change / np.where(lengths > 0, lengths, np.nan)
    return single_measurement(
        "weak dependence",
        "relative change of the map per relative move",
        LOWER,
        values,
        {"move": of_finite(np.mean, lengths[stayed]), "regions left": np.sum(~stayed)},
        missing=np.sum(stayed & np.isnan(values)),
        seed=seed,
    )


def _moves(explained: ExplainedModel, step: float, seed: int) -> Any:
    """A function that returns x′ − x [b, …], NaN for images that left their region."""

    def moved(x: Any, target: Any, first: tf.Tensor) -> tf.Tensor:
        here, own = explained.gradient(x, target), explained.part.of(x)
        noise = Draws(0, first).normal(own, 1, seed)[0]
        noise *= step * _norm(own) / _norm(noise)
        limit = tf.cast(SAME_REGION, own.dtype) * _norm(here)

        def stays(scale: tf.Tensor) -> tf.Tensor:
            there = explained.gradient(explained.part.replaced(x, own + scale * noise), target)
            return _norm(there - here) <= limit

        def halve(k: tf.Tensor, scale: tf.Tensor, inside: tf.Tensor) -> Any:
            scale = tf.where(inside, scale, scale / 2)
            return k + 1, scale, stays(scale)

        whole_step = tf.ones_like(limit)
        _, scale, inside = tf.while_loop(
            lambda k, _, inside: (k < HALVINGS) & ~tf.reduce_all(inside),
            halve,
            (tf.constant(0), whole_step, stays(whole_step)),
            parallel_iterations=1,
        )
        return tf.where(inside, scale * noise, tf.constant(np.nan, own.dtype))

    return moved


def _norm(values: tf.Tensor) -> tf.Tensor:
    """The norm of each image, [b, 1, …]."""
    return tf.sqrt(tf.reduce_sum(tf.square(values), range(1, values.shape.rank), keepdims=True))
