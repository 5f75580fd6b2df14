"""One replica's part of a training step: its share of the global loss, checks, metrics."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad import distribution
from tfgrad.errors import ArgumentError, DataError
from tfgrad.internal import keras_private
from tfgrad.penalties.teacher import Lesson

_NOT_FINITE = "x: the images hold NaN or infinite values"
_OUT_OF_RANGE = "y: a label is out of range"


class Batch:
    """One replica's batch, and how its parts enter the global loss."""

    def __init__(self, model, data):
        self.model = model
        x, self.true_y, self.true_weight = keras.utils.unpack_x_y_sample_weight(data)
        self.taught = None
        if isinstance(x, Lesson):
            x, self.taught = x
        self.true_x = x
        self.share = distribution.share_of(x)
        self.x, self.y, self.weight = x, self.true_y, self.true_weight
        if self.share.replicas > 1:
            filled = distribution.one_at_least
            self.x = filled(x)
            self.taught = None if self.taught is None else filled(self.taught)
            self.y = None if self.y is None else filled(self.y)
            self.weight = None if self.weight is None else filled(self.weight)
        if self.weight is not None:
            for penalty in model.penalties:
                self._example_weight(penalty)
        if not model.jit_compile:
            self._check_values()

    @property
    def supervised_weight(self):
        """Sample weights with which Keras's mean over this replica is a share of the global one.

        Keras returns Σ w ℓ / (examples here · replicas); the share is Σ w ℓ / (global batch), and
        0 for an example that only fills an empty replica.
        """
        if self.share.replicas == 1:
            return self.weight
        here = tf.maximum(self.share.size, 1)
        factor = tf.cast(here * self.share.replicas, tf.float32) / tf.cast(
            self.share.total, tf.float32
        )
        factor *= tf.cast(self.share.size > 0, tf.float32)
        if self.weight is None:
            return tf.fill([here], factor)
        return tf.nest.map_structure(lambda w: tf.cast(w, tf.float32) * factor, self.weight)

    def check_labels(self, probe):
        """Refuse labels that a penalty cannot use before the loss does, whose message says less."""
        for penalty in self._penalties_on_labels():
            probe.on(penalty.head).classes("label")

    def _penalties_on_labels(self):
        wanted = [(p, getattr(p, "target", None)) for p in self.model.penalties]
        return [p for p, target in wanted if isinstance(target, str) and target == "label"]

    def _labels_are_classes(self, head):
        """Whether a head's integers in y must name logits: for a penalty, or for the loss."""
        loss = self.model.loss
        if isinstance(loss, Mapping):
            loss = loss.get(head)
        sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        penalized = any(_own_head(p) == head for p in self._penalties_on_labels())
        return penalized or (sparse and loss.get_config().get("ignore_class") is None)

    def supervised(self, outputs, training):
        """The compiled loss and the regularisers of this replica's part of the batch."""
        if self.model.loss is None and self.model.penalties:  # learning from the penalties alone
            none = tf.zeros([], keras.config.floatx())
            return sum(keras_private.additional_losses(self.model), none)
        return self.model.compute_loss(
            x=self.x,
            y=self.y,
            y_pred=outputs,
            sample_weight=self.supervised_weight,
            training=training,
        )

    def penalized(self, probe):
        """Σ λ · Σ_i w_i p_i / global batch, this replica's share; tracks each penalty."""
        model, share = self.model, self.share
        total = 0.0
        for penalty, tracker in zip(model.penalties, model._trackers, strict=True):
            values = penalty.compute(probe.on(penalty.head))
            if share.replicas > 1:
                values = tf.where(share.size > 0, values, tf.zeros_like(values))
            if self.weight is not None:
                weight = self._example_weight(penalty)
                values *= tf.cast(tf.reshape(weight, [-1]), values.dtype)
            part = tf.reduce_sum(values) / tf.cast(share.total, values.dtype)
            self._track(tracker, part)
            weight = penalty.weight_at(model.optimizer.iterations, part.dtype)
            total += tf.cast(weight * part, keras.config.floatx())
        return total

    def track_loss(self, loss):
        """Count a loss for the metric `loss`."""
        replicas = self.share.replicas
        keras_private.track_loss(
            self.model,
            loss * tf.cast(replicas, loss.dtype),
            tf.cast(self.share.total, tf.float32) / replicas,
        )

    def logs(self, outputs):
        """Metrics so far, of the examples that are really there."""
        if self.share.replicas > 1:
            size = self.share.size
            outputs = tf.nest.map_structure(lambda t: t[:size], outputs)
        logs = self.model.compute_metrics(
            self.true_x, self.true_y, outputs, sample_weight=self.true_weight
        )
        if distribution.is_multi_worker(self.model.distribute_strategy):
            # Keras averages what workers report over axis 0, which a scalar does not have.
            logs = {name: tf.reshape(value, [1]) for name, value in logs.items()}
        return logs

    def _track(self, tracker, part):
        """Add this replica's share of a batch mean to a mean over examples."""
        replicas = self.share.replicas
        tracker.update_state(
            part * tf.cast(replicas, part.dtype),
            sample_weight=tf.cast(self.share.total, tf.float32) / replicas,
        )

    def _example_weight(self, penalty):
        """w, [batch]: of the labels of the penalty's head, or of the only labels there are."""
        weight = self.weight
        if isinstance(weight, Mapping):  # as Keras hands on one array too
            only = next(iter(weight.values())) if len(weight) == 1 else weight
            weight = weight.get(_own_head(penalty), only)
        if tf.nest.is_nested(weight):
            raise ArgumentError(
                f"sample_weight: got a {type(weight).__name__}; {penalty.name!r} needs one weight "
                "per example, [batch], or those of its head's labels."
            )
        if weight.shape.rank not in (1, None) and weight.shape[1:].num_elements() != 1:
            raise ArgumentError(
                f"sample_weight: got shape {weight.shape}; penalties need one weight per "
                "example, [batch]."
            )
        return weight

    def _check_values(self):
        """Stop at NaN images and labels out of range; on a GPU the latter would pass silently."""
        floats = [t for t in tf.nest.flatten(self.x) if t.dtype.is_floating]
        checks = [tf.debugging.assert_all_finite(t, _NOT_FINITE) for t in floats]
        shapes: Any = getattr(self.model.network, "output_shape", None)
        by_head = isinstance(self.y, Mapping)
        if by_head:  # `output_shape` forgets the heads' names
            output = getattr(self.model.network, "output", None)
            heads = output if isinstance(output, Mapping) else {}
            shapes = {head: tuple(logits.shape) for head, logits in heads.items()}
        for head, y in self.y.items() if by_head else [(None, self.y)]:
            shape = shapes.get(head) if by_head else shapes
            classes = shape[-1] if isinstance(shape, tuple) and len(shape) == 2 else None
            integer = tf.is_tensor(y) and y.dtype.is_integer
            vector = integer and (y.shape.rank == 1 or y.shape[1:] == [1])
            if classes and vector and self._labels_are_classes(head):
                who = "the network" if head is None else f"head {head}"
                y = tf.cast(y, tf.int64)
                inside = tf.reduce_all(tf.logical_and(y >= 0, y < classes))
                found = [tf.reduce_min(y), "to", tf.reduce_max(y)]
                expected = f"expected 0 to {classes - 1}, {who} has {classes} logits; got"
                checks.append(tf.debugging.Assert(inside, [f"{_OUT_OF_RANGE}: {expected}", *found]))
        # The loss must not see the labels first: its own message says less.
        with tf.control_dependencies([c for c in checks if c is not None]):
            if self.y is not None:
                self.y = tf.nest.map_structure(tf.identity, self.y)


def _own_head(penalty):
    """The head of the network, of a pair (the network's, the teacher's)."""
    return penalty.head[0] if isinstance(penalty.head, tuple) else penalty.head


def with_clear_errors(function, *args, **kwargs):
    """Call a function; failed checks inside a graph become `DataError`."""
    try:
        return function(*args, **kwargs)
    except tf.errors.InvalidArgumentError as error:
        for text in (_NOT_FINITE, _OUT_OF_RANGE):
            at = error.message.find(text)
            if at >= 0:
                found = " ".join(error.message[at:].split("\n\t")[0].split())
                found = found.replace("[", "").replace("]", "").replace(" : ", ": ")
                raise DataError(f"{found}. Check the data set before training.") from error
        raise
