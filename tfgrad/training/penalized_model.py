"""`PenalizedModel`: a Keras model whose `fit` also reduces gradient penalties."""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Self

import keras
import tensorflow as tf

from tfgrad import second_order
from tfgrad.errors import ArgumentError, ImageRangeWarning
from tfgrad.gradients import embeddings
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.input_structure import as_declared
from tfgrad.gradients.probe import Probe
from tfgrad.internal import keras_private
from tfgrad.internal.derivatives import corrected_derivatives
from tfgrad.internal.stateless_noise import Draws
from tfgrad.models import output_meaning
from tfgrad.penalties.base import Penalty
from tfgrad.penalties.checks import (
    check_network,
    check_teacher,
    reads_outputs,
    warn_of_assumed_outputs,
    warn_of_small_weights,
)
from tfgrad.penalties.teacher import Lesson, Teacher, needs_of
from tfgrad.training import checks, reductions
from tfgrad.training.batch import Batch
from tfgrad.training.batch_checks import check_target_labels, checked_data, checked_labels
from tfgrad.training.lessons import recorded_lessons
from tfgrad.training.network_wrapper import NetworkWrapper
from tfgrad.training.periods import Periods, is_due, switched
from tfgrad.training.terms import Term, Terms, with_later


@keras.saving.register_keras_serializable("tfgrad")
class PenalizedModel(NetworkWrapper):
    """Trains a network on its compiled loss plus Σ λ · penalty, both reduced alike.

    loss = 1/D Σ_i w_i ℓ_i + Σ_penalties λ · 1/D Σ_i w_i p_i + the network's own regularisers,
    over the global batch on any number of replicas, with w = sample_weight × class_weight. The
    reduction of the compiled loss decides D for both sums: its default, "sum_over_batch_size" (or
    "mean"), divides by the size of the global batch, "mean_with_sample_weight" by Σ_i w_i, "sum"
    and None by 1. As in Keras, `loss` reports what is minimised, and its mean over the examples
    for None. With several losses, a penalty has the reduction of its head's loss.

    It has the methods of every Keras model: `compile`, `fit`, `evaluate`, `predict`, `save`; they
    run a preprocessor that the network has for these, as the tasks of KerasHub do. One
    forward pass serves the loss and every penalty, and each distinct gradient is computed once.
    Every penalty reports its mean, without λ, under its own name: Σ_i w_i p_i over the size of the
    batch, or over Σ_i w_i for "mean_with_sample_weight". `network` stays an ordinary Keras model,
    which can be used, saved or exported alone.

    Args:
        network: A Keras model that returns logits [batch, classes], or a dict or list of them; the
            penalties then name a `head`. Penalties on attention maps read no outputs, so that
            these may have any form.
        penalties: A list of `tfgrad.penalties.Penalty`.
        teacher: A Keras model for the penalties that match one. It runs in inference mode, once
            per step for all of them; it is frozen, and no gradient flows into it. It is saved with
            this model (for further training), and not with `network`.
        evaluate_penalties: Whether `evaluate` (and validation) computes the penalties too and
            adds them to its loss; by default it reports the supervised loss and metrics only.
        outputs: What the network's outputs mean: `"exclusive"`, `"binary"`, `"independent"` or
            `"regression"`, by head where there are several; None for what the compiled loss says.
            See `tfgrad.models.output_meaning`.
        name: Name of the model.
        **kwargs: Passed on to `keras.Model`.

    Raises:
        SecondOrderError: At the network's first use, if TensorFlow drops or falsifies a second
            derivative that a penalty needs.
        ModelError: The network returns probabilities, and a penalty reads its outputs.
        ArgumentError: An argument is wrong, or a loss expects probabilities.
        DataError: From `fit` and its relatives, before the step of a batch whose images are not
            finite or whose labels are out of range. With `jit_compile=True` the same checks run
            before the compiled step. XLA drops them only where the caller compiles `train_step`
            in a `tf.function` of their own.

    The network's own `train_step`, `compute_loss` and compiled loss are not used.

    Example:

    ```python
    model = tfgrad.PenalizedModel(network, [tfgrad.penalties.GradientNorm(0.1)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=10)
    ```
    """

    def __init__(
        self,
        network: keras.Model,
        penalties: Penalty | Sequence[Penalty] = (),
        teacher: keras.Model | None = None,
        *,
        evaluate_penalties: bool = False,
        outputs: Any = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        checks.check_model(network)
        super().__init__(network, name or f"penalized_{network.name}", **kwargs)
        self.penalties = checks.checked_penalties(penalties)
        self.teacher = teacher
        self.evaluate_penalties = evaluate_penalties
        self.outputs_mean = output_meaning.check(outputs)
        output_meaning.remember(network, outputs)
        self._periods = Periods(self.penalties)
        self._trackers = [keras.metrics.Mean(name=penalty.name) for penalty in self.penalties]
        # Counts training steps for the draws of random estimators; the optimizer's own counter
        # does not advance while it accumulates gradients.
        self._draws_made = keras.Variable(
            0, dtype="int64", trainable=False, aggregation="only_first_replica", name="draws_made"
        )
        needs = [penalty.needs() for penalty in self.penalties] or [Needs()]
        self._needs = functools.reduce(operator.or_, needs)
        self._teacher_needs = needs_of(self.penalties)
        if self.penalties and network.built and getattr(network, "inputs", None):
            with corrected_derivatives():  # as in a step
                check_network(network, self.penalties)
        checks.check_teacher_argument(teacher, network, self.penalties)
        self.built = network.built

    # Methods of `keras.Model`

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Any = None, **kwargs: Any
    ) -> None:
        """As `keras.Model.compile`; the loss must take logits.

        `jit_compile="auto"`, the default, leaves XLA off for networks whose second derivatives it
        would falsify (max-pooling other than that of `tfgrad.layers`). It warns of weights
        that have no effect on pixels of 0 to 255 (`ImageRangeWarning`).

        Raises:
            ArgumentError: The loss expects probabilities, or has a reduction that replicas cannot
                share or that does not say what divides a penalty; a metric has the name of a
                penalty; the optimizer accumulates gradients on several replicas.
        """
        replicas = self.distribute_strategy.num_replicas_in_sync
        for one in tf.nest.flatten(loss):
            checks.check_loss(one, any(map(reads_outputs, self.penalties)), self.network)
        reduced = reductions.of_penalties(loss, self.penalties, replicas)
        taken = [penalty.name for penalty in self.penalties]
        checks.check_metrics([metrics, kwargs.get("weighted_metrics")], taken)
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)
        self._reduction, self._reductions = reduced
        if kwargs.get("jit_compile", "auto") == "auto" and self.jit_compile:
            self.jit_compile = not checks.is_wrong_under_xla(self.network, self.penalties)
        output_meaning.remember(self.network, loss=loss)
        warn_of_small_weights(self.network, self.penalties)
        steps = getattr(self.optimizer, "gradient_accumulation_steps", None)
        if steps and replicas > 1:
            raise ArgumentError(
                f"optimizer: got gradient_accumulation_steps={steps} on {replicas} replicas; "
                "expected None, because Keras's optimizers accumulate on one device only. Use a "
                "larger batch instead."
            )

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as the saved model was compiled, so that `fit` can continue."""
        with warnings.catch_warnings():  # which were given when it was compiled first
            warnings.simplefilter("ignore", ImageRangeWarning)
            self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def _metrics_of_training(self) -> list[keras.metrics.Metric]:
        return [] if self.evaluate_penalties else self._trackers

    # Recorded teacher outputs

    def lessons(self, x: Any, y: Any = None, batch_size: int = 256) -> Lesson:
        """The teacher's answers for a data set, computed once instead of once per epoch.

        Only valid for images that are the same in every epoch, that is without augmentation.

        Args:
            x: Arrays [n, …].
            y: Labels [n], for penalties with target `"label"`.
            batch_size: Examples per forward pass of the teacher.

        Returns:
            A `tfgrad.penalties.teacher.Lesson`, to be passed to `fit` in place of x:

        ```python
        model.fit(model.lessons(x, y), y, epochs=100)
        ```

        Raises:
            ArgumentError: The model has no teacher, or x is no array.
        """
        if self._teacher_needs is None:
            raise ArgumentError(
                "teacher: got None; expected a model with a teacher, whose answers lessons record."
            )
        return recorded_lessons(
            self.network, self.teacher, self.penalties, self._needs, x, y, batch_size
        )

    # Steps

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update from one batch: [x, y, sample_weight] of this replica."""
        batch = self._checked_batch(data)
        if self._teacher_needs is not None:
            check_teacher(self.teacher, self.network, self.penalties, batch.x)
        if self._periods:
            outputs, gradients = self._of_due_penalties(batch)
        else:
            outputs, gradients = self._of_all_penalties(batch)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self._draws_made.assign_add(1)
        return self._logs(batch.received(outputs))

    def _of_all_penalties(self, batch: Batch) -> tuple[Any, list[Any]]:
        """Outputs and weight gradients of a batch; updates the metrics."""
        taught = self._taught(batch, self._teacher_needs)
        with corrected_derivatives():
            with tf.GradientTape() as tape:
                outputs, loss, later = self._forward(batch, taught, training=True)
                scaled = self.optimizer.scale_loss(loss)
            variables = self._values()  # after the call, which may build the network
            gradients = tape.gradient(scaled, variables)
            return outputs, with_later(gradients, later, variables, self.optimizer.scale_loss)

    def _of_due_penalties(self, batch: Batch) -> tuple[Any, list[Any]]:
        """The same where steps leave penalties out: a branch of the graph for each set that is due.

        The forward pass and the updates of state are outside of the branches.
        """
        with corrected_derivatives():
            with tf.GradientTape(persistent=True) as tape:
                probe = self._probe(batch, None, training=True)
                loss, reported = self._supervised(batch, probe.outputs, training=True)
            variables = self._values()

            def case(due: list[Penalty]) -> tuple[list[Any], Any]:
                taught = self._taught(batch, needs_of(due))
                jacobian = any(penalty.needs().jacobian for penalty in due)
                with tape:
                    terms = self._terms(batch, probe.in_branch(taught, jacobian), due, True)
                    scaled = self.optimizer.scale_loss(loss + terms.total)
                gradients = tape.gradient(scaled, variables)
                gradients = with_later(gradients, terms.later, variables, self.optimizer.scale_loss)
                return gradients, terms.tensors(self.penalties)

            step = self._draws_made.value
            cases = [functools.partial(case, due) for due in self._periods.cases]
            gradients, (more, means) = switched(self._periods.case(step), cases)
        self._track(batch, means, step)
        keras_private.track_loss(self, *batch.as_mean(reported + more))
        return probe.outputs, gradients

    def _values(self) -> list[Any]:
        return [variable.value for variable in self.trainable_variables]

    def test_step(self, data: Any) -> dict[str, Any]:
        """Loss and metrics of one batch, without penalties unless `evaluate_penalties`."""
        batch = self._checked_batch(data)
        taught = self._taught(batch, self._teacher_needs) if self.evaluate_penalties else None
        outputs, _, _ = self._forward(batch, taught, training=False)
        return self._logs(batch.received(outputs))

    def _checked_batch(self, data: Any) -> Batch:
        batch = Batch(self._preprocessed(data))
        batch.x = as_declared(self.network, batch.x)
        for penalty in self.penalties:
            batch.example_weight(penalty)
        if not self.jit_compile:  # else `_checked_outside`
            batch.y = checked_labels(self.network, self.loss, self.penalties, batch.x, batch.y)
        return batch

    def _checked_outside(self, data: Any) -> Any:
        return checked_data(self.network, self.loss, self.penalties, data)

    def _taught(self, batch: Batch, needs: Needs | None) -> Teacher | None:
        """The teacher's answers; to be called outside of the tape, which must not record them."""
        if needs is None:
            return None
        if batch.taught is not None:
            return Teacher.from_lesson(batch.taught)
        stated = output_meaning.stated(self.network)
        return Teacher(self.teacher, batch.x, batch.y, needs, stated)

    def _forward(
        self, batch: Batch, taught: Teacher | None, training: bool
    ) -> tuple[Any, tf.Tensor, list[Term]]:
        """Outputs, loss and its later terms; updates the metrics of the loss and the penalties."""
        later: list[Term] = []
        if self.penalties and (training or self.evaluate_penalties):
            probe = self._probe(batch, taught, training)
            outputs = probe.outputs
            # Layers add their losses in every pass: read those of this one before another pass.
            loss, reported = self._supervised(batch, outputs, training)
            terms = self._terms(batch, probe, self.penalties, training)
            self._track(batch, list(terms.means.values()), None)
            loss, reported, later = loss + terms.total, reported + terms.reported, terms.later
        else:
            outputs = self(batch.x, training=training)
            loss, reported = self._supervised(batch, outputs, training)
        keras_private.track_loss(self, *batch.as_mean(reported))
        return outputs, loss, later

    def _probe(self, batch: Batch, taught: Teacher | None, training: bool) -> Probe:
        warn_of_assumed_outputs(self.network, self.penalties)
        if training:
            check_network(self.network, self.penalties, batch.x)
        probe = Probe(
            self.network,
            batch.x,
            batch.y,
            training=training,
            needs=self._needs,
            draws=Draws(self._draws_made.value if training else 0, batch.share.offset),
            teacher=taught,
            sources=embeddings.needed(self.network, batch.x, self._needs),
            given=batch.given,
        )
        check_target_labels(self.penalties, probe)
        return probe

    def _supervised(
        self, batch: Batch, outputs: Any, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """This replica's share of the compiled loss and the regularisers; the same as reported."""
        if self.loss is None and self.penalties:  # Trained on the penalties alone.
            none = tf.zeros([], keras.config.floatx())
            loss = sum(keras_private.additional_losses(self), none)
            return loss, loss
        if self._reduction == "none":
            checks.check_unreduced(self)
        loss = self.compute_loss(
            x=batch.x,
            y=batch.y,
            y_pred=outputs,
            sample_weight=batch.supervised_weight(self._reduction in ("mean", "weighted_mean")),
            training=training,
        )
        return batch.unreduced(loss) if loss.shape.rank else (loss, loss)

    def _terms(
        self, batch: Batch, probe: Probe, penalties: Sequence[Penalty], training: bool
    ) -> Terms:
        return Terms(batch, probe, penalties, self._reductions, self.optimizer.iterations, training)

    def _track(self, batch: Batch, means: Sequence[tf.Tensor], step: tf.Tensor | None) -> None:
        """Add this replica's shares of the penalties' means to their metrics, if due at a step."""
        for penalty, tracker, mean in zip(self.penalties, self._trackers, means, strict=True):
            value, examples = batch.as_mean(mean)
            if step is not None and penalty.every > 1:
                examples *= tf.cast(is_due(penalty.every, step), examples.dtype)
            tracker.update_state(value, sample_weight=examples)

    # Saving

    def get_config(self) -> dict[str, Any]:
        """The network, the penalties with their current weights, and the options."""
        stated = {} if self.outputs_mean is None else {"outputs": self.outputs_mean}
        safe = second_order.made_safe(self.network)
        if safe is not None:
            stated["made_safe"] = safe
        return {
            "name": self.name,
            "network": keras.saving.serialize_keras_object(self.network),
            "penalties": [keras.saving.serialize_keras_object(p) for p in self.penalties],
            "teacher": keras.saving.serialize_keras_object(self.teacher),
            "evaluate_penalties": self.evaluate_penalties,
            **stated,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """The model that `get_config` described."""
        config = dict(config)
        for key in ("network", "penalties", "teacher"):
            if config.get(key) is None:
                continue
            config[key] = keras.saving.deserialize_keras_object(
                config[key], custom_objects=custom_objects
            )
        safe = config.pop("made_safe", None)
        if safe is not None:
            second_order.make_safe(config["network"], **safe)
        return cls(**config)

    def _own_state(self) -> Iterator[tuple[str, keras.Variable]]:
        yield "draws_made", self._draws_made
        yield from super()._own_state()
        for penalty in self.penalties:
            if penalty._weight is not None:
                yield f"weight_{penalty.name}", penalty._weight
