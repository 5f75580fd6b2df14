"""What a method is asked, by the outputs of its network: checked, one class for each example."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients import model_checks, targets
from tfgrad.gradients.targets import Target
from tfgrad.models import output_meaning
from tfgrad.saliency import asked
from tfgrad.saliency.explaining import Explaining
from tfgrad.saliency.networks import Networks
from tfgrad.saliency.tracing import traced


class Resolving(Explaining):
    """The part of a method that knows what its network returns.

    Attributes:
        networks: The model with and without its last softmax.
        target: The option `target`, checked; None for the predicted classes.
        outputs: What the outputs mean, if the caller said so.
    """

    networks: Networks
    target: Any
    outputs: Any

    def _target(self, target: Any) -> Any:
        """What a call asks: its own target, or the method's."""
        if target is None and self.target is not None:
            return self.target
        return asked.validated(target)

    def _check_logits(self, x: Any) -> None:
        """Reject a network that does not return logits for inputs like these."""
        with self._shapes.lock:
            known = self._shapes.of(x)
            if not known.returns_logits:
                network = self.networks.of(None)
                model_checks.check_outputs(network)
                model_checks.check_logits(network, _specs(x))
                known.returns_logits = True

    def _class_count(self, x: Any) -> int | None:
        """The number of logits K; None where the network leaves it open."""
        network = self.networks.of(None)
        declared = keras.tree.flatten(getattr(network, "outputs", None) or [])
        if declared and declared[0].shape[-1] is not None:
            return declared[0].shape[-1]
        self._check_logits(x)
        with self._shapes.lock:
            known = self._shapes.of(x)
            if known.outputs is None:
                # A forward pass alone, which takes far less time to trace than the method.
                graph = traced(network, _specs(x))
                known.outputs = tf.nest.flatten(graph.structured_outputs)[0].shape
            return known.outputs[-1] if known.outputs.rank else None

    def _warn_if_assumed(self, count: int | None) -> None:
        output_meaning.warn_if_assumed(self.networks.of(None), self.outputs, count)

    def _resolved(self, target: Any, x: Any) -> Any:
        """A `Target`, or the classes of a batch, int32 [B], −1 for the predicted one."""
        target, batch = self._target(target), tf.nest.flatten(x)[0].shape[0]
        if isinstance(target, Target):
            asked.check_batch(target, batch)
            return target
        count = self._class_count(x)
        self._warn_if_assumed(count)
        if count is not None:
            # Raises if the target does not fit the batch or the classes.
            meaning = output_meaning.meaning(self.networks.of(None), self.outputs, count)
            targets.classes(target, tf.zeros([batch, count]), meaning=meaning)
        if isinstance(target, str):
            return tf.fill([batch], -1)
        return tf.broadcast_to(tf.cast(target, tf.int32), [batch])


def _specs(x: Any) -> Any:
    return tf.nest.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), x)
