"""One replica's part of a global batch, and its share of the global loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfgrad import distribution
from tfgrad.errors import ArgumentError
from tfgrad.penalties import checks
from tfgrad.penalties.base import Penalty
from tfgrad.penalties.examples import apart, unpacked


class Batch:
    """One replica's batch, and the share that its parts have in the global loss.

    Attributes:
        share: How many examples this replica and all replicas have.
        x: The inputs, at least one example: an empty replica computes on one example of ones,
            which counts nothing.
        y: The labels of `x`, or None.
        weight: The sample weights of `x`, or None.
        taught: Recorded answers of a teacher for `x`, or None.
        given: What came with `x` for penalties, {name: nest}, or None.
    """

    def __init__(self, data: Any) -> None:
        x, y, weight = unpacked(data)
        x, taught, given = apart(x)
        self._received = x, y, weight
        self.share = distribution.share_of(x)
        parts = [x, y, weight, taught, given]
        if self.share.replicas > 1:
            parts = [None if part is None else distribution.one_at_least(part) for part in parts]
        self.x, self.y, self.weight, self.taught, self.given = parts

    def supervised_weight(self, divided: bool) -> Any:
        """Sample weights with which Keras's loss on this replica is its share of the global one.

        Args:
            divided: Whether the loss is a mean: Keras returns Σ w ℓ / (examples here · replicas);
                the share is Σ w ℓ / (global batch). A sum is its own share. An example that only
                fills an empty replica has weight 0.
        """
        if self.share.replicas == 1:
            return self.weight
        here = tf.maximum(self.share.size, 1)
        factor = tf.cast(self.share.size > 0, tf.float32)
        if divided:
            factor *= tf.cast(here * self.share.replicas, tf.float32) / tf.cast(
                self.share.total, tf.float32
            )
        if self.weight is None:
            return tf.fill([here], factor)
        return tf.nest.map_structure(lambda w: tf.cast(w, tf.float32) * factor, self.weight)

    def example_weight(self, penalty: Penalty) -> tf.Tensor | None:
        """w, [batch], those of the labels of the penalty's head or of the only labels; or None.

        Raises:
            ArgumentError: There is not one weight per example.
        """
        weight, head = self.weight, own_head(penalty)
        if isinstance(weight, Mapping):  # Keras passes on a single array as a dict, too.
            only = next(iter(weight.values())) if len(weight) == 1 else weight
            weight = weight.get(head, only)
        elif isinstance(weight, list | tuple):
            if len(weight) == 1:
                weight = weight[0]
            elif isinstance(head, int) and 0 <= head < len(weight):
                weight = weight[head]  # perhaps None, where one head's labels have weights
        if weight is None:
            return None
        if tf.nest.is_nested(weight):
            raise ArgumentError(
                f"sample_weight: got {type(weight).__name__}; expected one weight per example, "
                f"[batch], or those of the head's labels, for {penalty.name!r}."
            )
        if weight.shape.rank not in (1, None) and weight.shape[1:].num_elements() != 1:
            raise ArgumentError(
                f"sample_weight: got shape {weight.shape}; expected one weight per example, "
                f"[batch], for {penalty.name!r}."
            )
        return weight

    def penalty_share(
        self, values: tf.Tensor, penalty: Penalty, reduction: str = "mean"
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """This replica's share of a penalty's term in the loss, and of its mean.

        Args:
            values: p, [batch].
            penalty: The penalty, whose head's sample weights w count.
            reduction: A `tfgrad.training.reductions.Reduction`.

        Returns:
            (term, mean), scalars. The mean is Σ w p / global batch, or Σ w p / Σ w for
            "weighted_mean"; the term is Σ w p for "sum" and "none", else the mean.
        """
        if self.share.replicas > 1:
            values = tf.where(self.share.size > 0, values, tf.zeros_like(values))
        weight = self.example_weight(penalty)
        if weight is not None:
            weight = tf.cast(tf.reshape(weight, [-1]), values.dtype)
            values *= weight
        total = tf.reduce_sum(values)
        if weight is not None and reduction == "weighted_mean":  # all weights may be zero
            mean = tf.math.divide_no_nan(total, tf.reduce_sum(weight))
        else:
            mean = total / tf.cast(self.share.total, values.dtype)
        return (total if reduction in ("sum", "none") else mean), mean

    def unreduced(self, losses: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """This replica's shares of the sum and of the mean of losses [batch, …].

        The sum is what a gradient of the losses themselves is a gradient of.
        """
        total = tf.reduce_sum(losses)
        each = tf.size(losses) // tf.maximum(tf.shape(losses)[0], 1)
        count = tf.cast(self.share.total * tf.maximum(each, 1), total.dtype)
        return total, tf.math.divide_no_nan(total, count)

    def as_mean(self, share: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(value, sample weight) that add this replica's share of a batch mean to a `Mean` metric.

        Summed over the replicas, the metric is then the mean over all examples of all batches.
        """
        replicas = self.share.replicas
        examples = tf.cast(self.share.total, tf.float32) / replicas
        return share * tf.cast(replicas, share.dtype), examples

    def received(self, outputs: Any) -> tuple[Any, Any, Any, Any]:
        """(x, y, outputs, weight) of the examples that this replica received, perhaps none."""
        if self.share.replicas > 1:
            outputs = tf.nest.map_structure(lambda t: t[: self.share.size], outputs)
        x, y, weight = self._received
        return x, y, outputs, weight


def own_head(penalty: Penalty) -> Any:
    """The network's head of a penalty, also out of a pair (the network's, the teacher's)."""
    return checks.own_head(penalty.head)
