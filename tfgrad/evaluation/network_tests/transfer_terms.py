"""The terms of the transfer bound: the mismatch ρ, the points of the distance ψ, and H_a and K."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, NonFiniteError
from tfgrad.gradients.probe import Probe
from tfgrad.internal import call_hooks
from tfgrad.internal.precision import at_least_float32
from tfgrad.models.output_meaning import REGRESSION

_BLOCK = 256  # Number of images per block of pairs: 0.5 MB of distances at a time.


class Mismatch(keras.Model):
    """ρ as a network with one output, so that a probe can differentiate it.

    Args:
        student: A model from images to logits.
        teacher: A model from images to logits of the same classes.
    """

    def __init__(self, student: keras.Model, teacher: keras.Model) -> None:
        super().__init__(name="mismatch")
        self.student, self.teacher = student, teacher

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """‖student(x) − teacher(x)‖₁, [batch, 1]."""
        both = self.student(x, training=training), self.teacher(x, training=training)
        for name, logits in zip(("student", "teacher"), both, strict=True):
            if tf.nest.is_nested(logits) or logits.shape.rank != 2:
                got = tf.nest.map_structure(lambda t: tuple(t.shape), logits)
                raise ArgumentError(
                    f"{name}: got outputs of shape {got}; expected a model with one output [batch, "
                    "classes]. For one of several outputs, try tfgrad.models.one_head(model, head)."
                )
        a, b = map(at_least_float32, both)
        if a.shape[-1] != b.shape[-1]:
            raise ArgumentError(
                f"student, teacher: got {a.shape[-1]} and {b.shape[-1]} logits; expected the same "
                "classes, those of the source. For a two-headed student, try "
                "tfgrad.models.one_head(student, 'source')."
            )
        return tf.reduce_sum(tf.abs(a - tf.cast(b, a.dtype)), axis=-1, keepdims=True)


def mismatch_and_points(
    student: keras.Model, teacher: keras.Model, features: Any, images: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """ρ [n], the points between which ψ is measured [n, d], and max ‖∇x ρ‖_∞ or None.

    Args:
        student: A model from images to logits.
        teacher: A model from images to logits of the same classes.
        features: Where ψ is measured; see `transfer_bound`.
        images: Images [n, …].
        batch_size: Number of images per forward pass.

    Raises:
        ArgumentError: The networks differ in classes, or there are no such features.
        NonFiniteError: ρ or a feature is NaN or infinite.
    """
    layer = features if isinstance(features, str) else None
    if layer is not None:
        call_hooks.check_names(teacher, [layer])
    elif features is not None and not isinstance(features, keras.Model):
        raise ArgumentError(
            f"features: got {type(features).__name__}; expected a layer's name in the teacher or a "
            "keras.Model of images."
        )
    mismatch = Mismatch(student, teacher)

    @tf.function(reduce_retracing=True, autograph=False)
    def of_batch(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """ρ, and max ‖∇x ρ‖_∞ or the features."""
        if features is None:
            probe = Probe(mismatch, x, outputs=REGRESSION)
            return probe.logits[:, 0], tf.reduce_max(tf.abs(probe.input_gradient(0)))
        loss = mismatch(x, training=False)[:, 0]
        if layer is None:
            points = features(x, training=False)
        else:  # In a pass of its own, as the student may have a layer of the same name.
            with call_hooks.recorded_outputs([layer]) as outputs:
                teacher(x, training=False)
            if layer not in outputs:
                raise ArgumentError(
                    f"features: got {layer!r}; the teacher never calls its layer of that name. "
                    "Expected one that is called."
                )
            points = outputs[layer]
        return loss, tf.reshape(points, [tf.shape(x)[0], -1])

    starts = range(0, len(images), batch_size)
    parts = [of_batch(tf.constant(images[i : i + batch_size])) for i in starts]
    loss = np.concatenate([loss.numpy() for loss, _ in parts]).astype("float64")
    points: np.ndarray
    gradient: float | None
    if features is None:
        points, gradient = images.reshape(len(images), -1), float(max(g.numpy() for _, g in parts))
    else:
        points, gradient = np.concatenate([p.numpy() for _, p in parts]), None
    if not (np.isfinite(loss).all() and np.isfinite(points).all()):
        raise NonFiniteError(
            "source, target: a pixel, a feature or a logit is NaN or infinite, so that no distance "
            "exists; expected finite ones. Look at the images first, then at the weights."
        )
    return loss, points, gradient


def distance_and_slope(
    points: np.ndarray,
    loss: np.ndarray,
    in_source: np.ndarray,
    in_target: np.ndarray,
    all_pairs: bool,
) -> tuple[float, float]:
    """H_a, and the largest |Δρ| / ψ over all pairs, computed block by block.

    Args:
        points: The points between which ψ is measured, [n, d].
        loss: The mismatch ρ, float64 [n].
        in_source: Indices of the points that belong to the source.
        in_target: Indices of the points that belong to the target.
        all_pairs: Whether to compute the slope, which is 0 otherwise.
    """
    from sklearn.metrics import pairwise_distances  # Slow to import, and only needed here.

    is_source, is_target = (np.isin(np.arange(len(loss)), s) for s in (in_source, in_target))
    nearest = np.where(is_target, 0.0, np.inf)
    rounding, slope = 1e-5 * np.max(loss), 0.0
    starts = range(0, len(loss), _BLOCK)
    for i in starts:
        for j in starts[i // _BLOCK :]:
            a, b = slice(i, i + _BLOCK), slice(j, j + _BLOCK)
            crossing = (is_source[a].any() and is_target[b].any()) or (
                is_target[a].any() and is_source[b].any()
            )
            if not (all_pairs or crossing):
                continue
            distance = pairwise_distances(points[a], points[b], metric="l1")
            for one, other, table in ((a, b, distance), (b, a, distance.T)):
                reach = np.where(is_target[other], table, np.inf).min(1)
                nearest[one] = np.minimum(nearest[one], reach)
            if all_pairs:
                change = np.abs(loss[a, None] - loss[b])
                # Where ψ is 0, a change of ρ is rounding, or there is no K.
                change[(distance == 0) & (change <= rounding)] = 0.0
                slope = max(slope, _largest_ratio(change, distance))
    return float(np.max(nearest[is_source])), slope


def _largest_ratio(change: np.ndarray, distance: np.ndarray) -> float:
    ratio = np.divide(change, distance, out=np.zeros_like(change), where=distance > 0)
    return np.inf if np.any((distance == 0) & (change > 0)) else float(np.max(ratio))
