"""What pixel perturbation measures of each example: of classes, or of the value of a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.evaluation import networks
from tfgrad.evaluation.measurement import HIGHER, LOWER
from tfgrad.gradients import class_scores, output_heads, targets
from tfgrad.gradients.model_checks import check_logits
from tfgrad.gradients.targets import Target
from tfgrad.internal.arguments import one_of
from tfgrad.models import output_meaning
from tfgrad.saliency import asked

# Each score with its better direction while salient pixels stay; the first is the default.
SCORES = {
    "accuracy": HIGHER,
    "probability of the label": HIGHER,
    "change of the top probability": LOWER,
    "log density ratio": HIGHER,
    "relative log density ratio": LOWER,
}
SIGNED = "change of the score"
TARGET_SCORES = {
    "size of the change": LOWER,
    SIGNED: HIGHER,
    "relative change of the score": LOWER,
}
# The smallest divisor, so that a logit of 0 gives a large number and not infinity.
_SMALLEST = 1e-6


class ClassScores:
    """`SCORES` of classes.

    Args:
        network: A network that returns logits.
        x: Its inputs.
        y: Labels, int32 [batch].
    """

    dtype = tf.float32

    def __init__(self, network: Any, x: Any, y: tf.Tensor) -> None:
        check_logits(network, x)
        self._network, self._y = network, y
        self._before = self._logits(x)
        self._meaning = output_meaning.meaning(network, count=self._before.shape[-1])

    def at(self, x: Any) -> tf.Tensor:
        """[batch, scores] at other inputs, in the order of `SCORES`."""
        logits, before, y, meaning = self._logits(x), self._before, self._y, self._meaning
        top = class_scores.predicted(before, meaning)
        now, then = (class_scores.probabilities(f, meaning) for f in (logits, before))
        of_top, logit = class_scores.select(then, top), class_scores.logit(before, top, meaning)
        change = class_scores.logit(logits, top, meaning) - logit
        return tf.stack(
            [
                tf.cast(tf.equal(class_scores.predicted(logits, meaning), y), tf.float32),
                class_scores.select(now, y),
                tf.abs(class_scores.select(now, top) - of_top) / of_top,
                class_scores.logit(logits - before, y, meaning),
                tf.abs(change) / tf.maximum(tf.abs(logit), _SMALLEST),
            ],
            axis=-1,
        )

    def _logits(self, x: Any) -> tf.Tensor:
        network = self._network
        return tf.cast(output_heads.logits(network, network(x, training=False)), tf.float32)


class TargetScores:
    """`TARGET_SCORES` of a target, whose choices are those at the inputs as they came.

    Args:
        network: A network whose outputs the target reads.
        x: Its inputs.
        target: The target.
        values: What it needs of each example.
    """

    dtype = tf.float64

    def __init__(
        self, network: Any, x: Any, target: Target, values: Mapping[str, tf.Tensor]
    ) -> None:
        outputs = networks.outputs_at(network, x)
        self._network = network
        self._target = asked.with_tensors(target, values).fixed(outputs)
        self._before = targets.value_of(self._target, outputs)

    def at(self, x: Any) -> tf.Tensor:
        """[batch, scores] at other inputs, in the order of `TARGET_SCORES`."""
        change = networks.score(self._network, x, self._target) - self._before
        size = tf.maximum(tf.abs(self._before), _SMALLEST)
        columns = [tf.abs(change), change, tf.abs(change) / size]
        return tf.cast(tf.stack(columns, axis=-1), self.dtype)


def by_size(score: str) -> bool:
    """Whether a score is one of sizes, for which the sign of a map does not count."""
    return score in TARGET_SCORES and score != SIGNED


def checked_score(score: str | None, target: Target | None) -> tuple[str, dict[str, str]]:
    """The score that is asked for, and all scores of this kind with their directions.

    Raises:
        ArgumentError: There is no such score; or it is one of classes, and the target is none.
    """
    scores = SCORES if target is None else TARGET_SCORES
    if score is None:
        return next(iter(scores)), scores
    if target is not None and score in SCORES:
        alike = "; try 'change of the score'" if score == "log density ratio" else ""
        raise ArgumentError(
            f"score: got {score!r}, which is one of classes, for {target!r}; expected one of "
            f"{', '.join(map(repr, scores))}{alike}."
        )
    if target is None and score in TARGET_SCORES:
        raise ArgumentError(
            f"score: got {score!r}, which is one of targets; expected one of "
            f"{', '.join(map(repr, scores))}; or try target=."
        )
    return one_of("score", score, tuple(scores)), scores
