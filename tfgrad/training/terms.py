"""The penalties' terms in the loss; some are differentiated when the main pass's memory is free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients.probe import Probe
from tfgrad.penalties.base import Penalty
from tfgrad.training.batch import Batch

Wait = Callable[[tf.Tensor], tf.Tensor]
Term = Callable[[Wait], tf.Tensor]


class Terms:
    """This replica's share of Σ λ · penalty, and the shares of the penalties' means.

    Attributes:
        total: The share that is minimised, a scalar.
        reported: The share that is reported as part of the loss, a scalar.
        means: {name of the penalty: its share of the mean}.
        later: Functions that return more scalars to be minimised, each 0; see `Penalty.in_parts`.

    Args:
        batch: This replica's batch.
        probe: The probe of the batch.
        penalties: The penalties that are computed.
        reductions: {name of the penalty: reduction}.
        step: The optimizer's step.
        training: Whether a penalty of each k-th step counts k times.
    """

    def __init__(
        self,
        batch: Batch,
        probe: Probe,
        penalties: Sequence[Penalty],
        reductions: Mapping[str, Any],
        step: Any,
        training: bool,
    ) -> None:
        self.total: Any = 0.0
        self.reported: Any = 0.0
        self.means: dict[str, tf.Tensor] = {}
        self.later: list[Term] = []
        for penalty in penalties:
            reduction = reductions[penalty.name]
            values, later = penalty.in_parts(probe.on(penalty.head))
            term, mean = batch.penalty_share(values, penalty, reduction)
            self.means[penalty.name] = mean
            weight = penalty.weight_at(step, mean.dtype)
            if training and penalty.every > 1:
                weight *= penalty.every
            part = tf.cast(weight * term, keras.config.floatx())
            self.total += part
            if reduction == "none":
                part = tf.cast(weight * mean, keras.config.floatx())
            self.reported += part
            if later is not None:
                self.later.append(_Later(batch, penalty, reduction, weight, later))

    def tensors(self, penalties: Sequence[Penalty]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """`reported` and `means` for all of some penalties, 0 for those not computed."""
        dtype = keras.config.floatx()
        means = [tf.cast(self.means.get(penalty.name, 0.0), dtype) for penalty in penalties]
        return tf.cast(self.reported, dtype), means


class _Later:
    """A penalty's share of the loss that is computed when it is called."""

    def __init__(
        self, batch: Batch, penalty: Penalty, reduction: Any, weight: tf.Tensor, values: Term
    ) -> None:
        self._values, self._weight = values, weight
        self._share = lambda values: batch.penalty_share(values, penalty, reduction)[0]

    def __call__(self, wait: Wait) -> tf.Tensor:
        share = self._share(self._values(wait))
        return tf.cast(tf.cast(self._weight, share.dtype) * share, keras.config.floatx())


def with_later(
    gradients: Sequence[Any],
    terms: Sequence[Term],
    variables: Sequence[Any],
    scale: Callable[[tf.Tensor], tf.Tensor],
) -> list[Any]:
    """Gradients of a loss and of later terms.

    Args:
        gradients: The loss's: tensors, slices or None.
        terms: Functions that return a scalar each. Each receives a function with which it makes a
            tensor of its own wait for the gradients, also in a graph.
        variables: What is differentiated.
        scale: Scales the sum of the terms as the loss was.
    """
    if not terms:
        return list(gradients)
    computed = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    computed = [g for g in computed if g is not None]

    def wait(tensor: tf.Tensor) -> tf.Tensor:
        # Not tf.control_dependencies: with these, what Grappler's dependency optimizer makes of the
        # step (TensorFlow 2.21) gives some weights another gradient in some of the processes.
        return tf.raw_ops.IdentityN(input=[tensor, *computed])[0]

    with tf.GradientTape() as tape:
        scaled = scale(tf.add_n([term(wait) for term in terms]))
    more = tape.gradient(scaled, list(variables))
    return [_sum(a, b) for a, b in zip(gradients, more, strict=True)]


def _sum(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, tf.IndexedSlices) and isinstance(b, tf.IndexedSlices):
        indices = [tf.cast(s.indices, tf.int64) for s in (a, b)]
        values = tf.concat([a.values, b.values], 0)
        return tf.IndexedSlices(values, tf.concat(indices, 0), a.dense_shape)
    return tf.convert_to_tensor(a) + tf.convert_to_tensor(b)
