"""Weak dependence: does a map stay the same within a linear region of its network?"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import DataError
from tfgrad.evaluation.map_tests.axioms import (
    HALVINGS,
    SAME_REGION,
    of_finite,
    single_measurement,
)
from tfgrad.evaluation.map_tests.explained_model import ExplainedModel, built
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
        outputs: What the model's outputs mean, see `tfgrad.models.output_meaning`; None for what
            its compiled loss says.

    Returns:
        The mean over images and its standard error. Columns: "move", the mean of ‖x′ − x‖ / ‖x‖;
        "regions left" and "maps left out", the number of images that do not count because they left
        their region, or because their map is zero, NaN or infinite.

    Raises:
        ArgumentError: An argument does not fit the model or the images.
        DataError: No image counts.
        ModelError: The model returns no logits.
        NonFiniteError: A logit is NaN or infinite.

    Source: thesis Definitions 1 and 3, Prop. 4.
    """
    step, seed = number("step", step), integer("seed", seed, lowest=0)
    explained = ExplainedModel(model, images, target, batch_size)
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
        there.append(x + moves[start : start + x.shape[0]])
        start += x.shape[0]
    function = built(method, explained.network)
    change = relative_change(explained.maps(function), explained.maps(function, there))
    lengths = relative_change(np.concatenate(explained.batches), np.concatenate(there))
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

    def moved(x: tf.Tensor, classes: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        here = explained.gradient(x, classes)
        noise = Draws(0, first).normal(x, 1, seed)[0]
        noise *= step * _norm(x) / _norm(noise)
        limit = tf.cast(SAME_REGION, x.dtype) * _norm(here)

        def stays(scale: tf.Tensor) -> tf.Tensor:
            there = explained.gradient(x + scale * noise, classes)
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
        return tf.where(inside, scale * noise, tf.constant(np.nan, x.dtype))

    return moved


def _norm(values: tf.Tensor) -> tf.Tensor:
    """The norm of each image, [b, 1, …]."""
    return tf.sqrt(tf.reduce_sum(tf.square(values), range(1, values.shape.rank), keepdims=True))
