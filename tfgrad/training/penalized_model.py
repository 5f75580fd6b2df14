"""`PenalizedModel`: a Keras model whose `fit` also makes gradient penalties small."""

import inspect

import keras
import tensorflow as tf

from tfgrad import distribution
from tfgrad.errors import ArgumentError
from tfgrad.gradients import output_heads
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.model_checks import Wrapper
from tfgrad.gradients.probe import Probe
from tfgrad.internal import keras_private
from tfgrad.internal.stateless_noise import Draws
from tfgrad.penalties.base import Penalty
from tfgrad.penalties.checks import check_network, check_teacher
from tfgrad.penalties.teacher import Lesson, Teacher, needs_of, record
from tfgrad.training.step import Batch, with_clear_errors


@keras.saving.register_keras_serializable("tfgrad")
class PenalizedModel(Wrapper, keras.Model):
    """Trains a network on its compiled loss plus Σ λ · penalty, both over the global batch.

    loss = 1/B Σ_i w_i ℓ_i + Σ_penalties λ · 1/B Σ_i w_i p_i + the network's own regularisers,
    with B the size of the global batch on any number of replicas and w = sample_weight ×
    class_weight.

    An ordinary Keras model: `compile`, `fit`, `evaluate`, `predict`, callbacks, `save`. One
    forward pass serves the loss and every penalty, and each distinct gradient is computed once.
    Every penalty reports its mean, without λ, under its own name. `network` is the plain model, to
    be used, saved or exported alone.

    Args:
        network: a Keras model that returns logits [batch, classes], or a dict or list of them,
            whose penalties then name a `head`.
        penalties: a list of `tfgrad.penalties.Penalty`.
        teacher: a Keras model for the penalties that match one. It runs in inference mode, once
            per step for all of them; none of its variables moves, and no gradient flows into it.
            It is saved with this model (to train on), and not with `network`.
        evaluate_penalties: whether `evaluate` (and validation) computes the penalties too and
            adds them to its loss; by default it reports the supervised loss and metrics only.

    Raises:
        SecondOrderError: at the network's first use, where TensorFlow would drop or falsify a
            second derivative that a penalty needs.
        ModelError: the network returns probabilities.
        ArgumentError: an argument is wrong, or a loss expects probabilities.
        DataError: from `fit`, when images are not finite or labels out of range. XLA drops these
            two checks (`jit_compile=True`); `tfgrad.callbacks.StopOnNonFinite` still stops.

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
        network,
        penalties=(),
        teacher=None,
        *,
        evaluate_penalties=False,
        name=None,
        **kwargs,
    ):
        super().__init__(name=name or f"penalized_{getattr(network, 'name', 'network')}", **kwargs)
        if not isinstance(network, keras.Model):
            raise ArgumentError(
                f"network: got {type(network).__name__}; expected a keras.Model "
                "(functional, Sequential or subclassed)."
            )
        penalties = [penalties] if isinstance(penalties, Penalty) else list(penalties)
        for penalty in penalties:
            if not isinstance(penalty, Penalty):
                raise ArgumentError(
                    f"penalties: got {type(penalty).__name__}; expected instances of "
                    "tfgrad.penalties.Penalty, e.g. GradientNorm(0.1)."
                )
        names = [p.name for p in penalties]
        for taken in ("loss", *(n for i, n in enumerate(names) if n in names[:i])):
            if taken in names:
                raise ArgumentError(
                    f"penalties: the name {taken!r} is taken; give every penalty its own name=."
                )
        self.network = network
        self.penalties = penalties
        self.teacher = teacher
        self.evaluate_penalties = evaluate_penalties
        self._trackers = [keras.metrics.Mean(name=n) for n in names]
        self._evaluating = self._symbolically_built = False
        # Counts training steps for the draws of random estimators; the optimizer's own counter
        # stands still while it accumulates gradients.
        self._draws_made = keras.Variable(
            0, dtype="int64", trainable=False, aggregation="only_first_replica", name="draws_made"
        )
        self._needs = Needs()
        for penalty in penalties:
            self._needs |= penalty.needs()
        self._teacher_needs = needs_of(penalties)
        if penalties and network.built and getattr(network, "inputs", None):
            check_network(network, penalties)
        if self._teacher_needs is not None:
            check_teacher(teacher, network, penalties)
            shared = {id(v) for v in network.trainable_variables} & {
                id(v) for v in teacher.variables
            }
            if shared:
                raise ArgumentError(
                    f"teacher: {teacher.name!r} shares weights with network {network.name!r}, and "
                    "would change as that trains; give the network copies of them: "
                    "keras.models.clone_model(network), then set_weights."
                )
        elif teacher is not None:
            raise ArgumentError(
                f"teacher: got {getattr(teacher, 'name', teacher)!r}, but no penalty matches one; "
                "add e.g. tfgrad.penalties.ActivationMatching(), or leave teacher=None."
            )
        self.built = network.built

    # Keras's side

    def call(self, x, training=None):
        """The network's logits."""
        return self.network(x, training=training)

    def compile(self, optimizer="rmsprop", loss=None, metrics=None, **kwargs):
        """As `keras.Model.compile`; the loss must take logits.

        Raises:
            ArgumentError: the loss expects probabilities, or reduces in a way that replicas
                cannot share; a metric has the name of a penalty.
        """
        for one in tf.nest.flatten(loss):
            self._check_loss(one)
        self._check_metrics(metrics, kwargs.get("weighted_metrics"))
        self._symbolically_built = False
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)
        replicas = self.distribute_strategy.num_replicas_in_sync
        steps = getattr(self.optimizer, "gradient_accumulation_steps", None)
        if steps and replicas > 1:
            raise ArgumentError(
                f"optimizer: gradient_accumulation_steps={steps} on {replicas} replicas; Keras's "
                "optimizers accumulate on one device only. Use a larger batch instead."
            )

    def compile_from_config(self, config):
        """Compile as the saved model was, so that `fit` goes on."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """As `keras.Model.compute_loss`, of the heads that have labels."""
        return super().compute_loss(
            x, y, output_heads.labelled(self.network, y_pred, y), sample_weight, training
        )

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """As `keras.Model.compute_metrics`, of the heads that have labels."""
        return super().compute_metrics(
            x, y, output_heads.labelled(self.network, y_pred, y), sample_weight
        )

    def fit(self, *args, **kwargs):
        """As `keras.Model.fit`."""
        return with_clear_errors(super().fit, *args, **kwargs)

    def train_on_batch(self, *args, **kwargs):
        """As `keras.Model.train_on_batch`."""
        return with_clear_errors(super().train_on_batch, *args, **kwargs)

    def evaluate(self, *args, **kwargs):
        """As `keras.Model.evaluate`: supervised loss and metrics, or all if asked to."""
        self._evaluating = True
        try:
            return with_clear_errors(super().evaluate, *args, **kwargs)
        finally:
            self._evaluating = False

    def test_on_batch(self, *args, **kwargs):
        """As `keras.Model.test_on_batch`."""
        self._evaluating = True
        try:
            return with_clear_errors(super().test_on_batch, *args, **kwargs)
        finally:
            self._evaluating = False

    @property
    def metrics(self):
        """The loss, one mean per penalty, and the compiled metrics."""
        metrics = super().metrics
        if self._evaluating and not self.evaluate_penalties:
            trackers = {id(t) for t in self._trackers}
            metrics = [m for m in metrics if id(m) not in trackers]
        return metrics

    @property
    def trainable_variables(self):
        """Those of the network: a teacher is never trained, whatever its `trainable` says."""
        return self.network.trainable_variables if self.trainable else []

    @property
    def trainable_weights(self):
        """As `trainable_variables`."""
        return self.network.trainable_weights if self.trainable else []

    @property
    def non_trainable_variables(self):
        """All other variables, the teacher's among them."""
        trained = {id(v) for v in self.trainable_variables}
        return [v for v in self.variables if id(v) not in trained]

    @property
    def non_trainable_weights(self):
        """As `non_trainable_variables`, without metrics and seeds."""
        trained = {id(v) for v in self.trainable_weights}
        return [v for v in self.weights if id(v) not in trained]

    # A teacher

    def lessons(self, x, y=None, batch_size=256):
        """What the teacher says of a data set, asked once instead of once per epoch.

        Right where the images do not change from epoch to epoch, that is without augmentation.

        Args:
            x: arrays [n, …].
            y: labels [n], for penalties with target `"label"`.
            batch_size: examples per pass of the teacher.

        Returns:
            A `tfgrad.teaching.Lesson`, to be passed to `fit` in place of x:

        ```python
        model.fit(model.lessons(x, y), y, epochs=100)
        ```
        """
        if self._teacher_needs is None:
            raise ArgumentError("teacher: this model has none, so there are no lessons to record.")

        def answer(x, y=None):
            taught = Teacher(self.teacher, x, y, self._teacher_needs)
            with keras.StatelessScope(collect_losses=True):
                probe = Probe(self.network, x, y, needs=self._needs, teacher=taught)
                for penalty in self.penalties:
                    if penalty.teacher_needs() is not None:
                        penalty.compute(probe.on(penalty.head))
            return taught.answers()

        return record(answer, x, y, batch_size)

    def _taught(self, batch):
        """The teacher's side of a batch; opened before any tape, so that none records it."""
        if self._teacher_needs is None:
            return None
        if batch.taught is not None:
            return Teacher.from_lesson(batch.taught)
        return Teacher(self.teacher, batch.x, batch.y, self._teacher_needs)

    # One step

    def train_step(self, data):
        """One update from one batch: [x, y, sample_weight] of this replica."""
        batch = Batch(self, data)
        if self._teacher_needs is not None:
            check_teacher(self.teacher, self.network, self.penalties, batch.x)
        taught = self._taught(batch)
        with tf.GradientTape() as tape:
            if self.penalties:
                check_network(self.network, self.penalties, batch.x)
                draws = Draws(self._draws_made.value, batch.share.offset)
                probe = Probe(
                    self.network,
                    batch.x,
                    batch.y,
                    training=True,
                    needs=self._needs,
                    draws=draws,
                    teacher=taught,
                )
                batch.check_labels(probe)
                outputs = probe.outputs
                # The losses that layers add are those of this pass: read them before another one.
                loss = batch.supervised(outputs, training=True) + batch.penalized(probe)
            else:
                outputs = self(batch.x, training=True)
                loss = batch.supervised(outputs, training=True)
            batch.track_loss(loss)
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(
            zip(tape.gradient(scaled, [v.value for v in variables]), variables, strict=True)
        )
        self._draws_made.assign_add(1)
        return batch.logs(outputs)

    def test_step(self, data):
        """Loss and metrics of one batch, without penalties unless `evaluate_penalties`."""
        batch = Batch(self, data)
        if self.evaluate_penalties and self.penalties:
            probe = Probe(
                self.network,
                batch.x,
                batch.y,
                needs=self._needs,
                draws=Draws(0, batch.share.offset),
                teacher=self._taught(batch),
            )
            outputs = probe.outputs
            loss = batch.supervised(outputs, training=False) + batch.penalized(probe)
        else:
            outputs = self(batch.x, training=False)
            loss = batch.supervised(outputs, training=False)
        batch.track_loss(loss)
        return batch.logs(outputs)

    def predict_step(self, data):
        """Logits of one batch."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        x = x.x if isinstance(x, Lesson) else x
        if distribution.share_of(x).replicas == 1:
            return self(x, training=False)
        size = tf.shape(tf.nest.flatten(x)[0])[0]
        outputs = self(distribution.one_at_least(x), training=False)
        return tf.nest.map_structure(lambda t: t[:size], outputs)

    # Saving

    def get_config(self):
        """The network, the penalties with their present weights, and the options."""
        return {
            "name": self.name,
            "network": keras.saving.serialize_keras_object(self.network),
            "penalties": [keras.saving.serialize_keras_object(p) for p in self.penalties],
            "teacher": None
            if self.teacher is None
            else keras.saving.serialize_keras_object(self.teacher),
            "evaluate_penalties": self.evaluate_penalties,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The model that `get_config` described."""
        config = dict(config)
        for key in ("network", "penalties", "teacher"):
            if config.get(key) is None:
                continue
            config[key] = keras.saving.deserialize_keras_object(
                config[key], custom_objects=custom_objects
            )
        return cls(**config)

    def save_own_variables(self, store):
        """What a run needs beside weights to go on exactly: draws, seeds, penalty weights."""
        for name, variable in self._own_state():
            store[name] = variable.numpy()

    def load_own_variables(self, store):
        """The counterpart of `save_own_variables`."""
        for name, variable in self._own_state():
            if name not in store:
                raise ValueError(f"{self.name}: the file has no {name!r}; was it saved by tfgrad?")
            variable.assign(store[name])

    def _own_state(self):
        yield "draws_made", self._draws_made
        weights = {id(v) for v in self.network.weights}
        seeds = (v for v in self.network.variables if id(v) not in weights)
        for i, seed in enumerate(seeds):
            yield f"seed_{i}", seed
        for penalty in self.penalties:
            if penalty._weight is not None:
                yield f"weight_{penalty.name}", penalty._weight

    # Inside

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Build under a strategy from one replica's part of a batch.

        Keras reduces the whole batch over the replicas for this, which fails across workers
        (keras-team/keras#20585); only shapes and dtypes are wanted. Once is enough: validation data
        that end with their epoch have no batch to look at in the next.
        """
        if not keras_private.is_distributed(self) or self._symbolically_built:
            return
        strategy = self.distribute_strategy
        if iterator is not None:
            for _, _, batches in iterator:
                data_batch = distribution.local_value(strategy, next(batches))
                break
        x, *labels = keras.utils.unpack_x_y_sample_weight(data_batch)
        x = x.x if isinstance(x, Lesson) else x
        with strategy.scope():
            keras_private.symbolic_build(self, (x, *labels))
        self._symbolically_built = True

    def _check_metrics(self, *metrics):
        names = {t.name for t in self._trackers}
        for metric in tf.nest.flatten(metrics):
            name = metric if isinstance(metric, str) else getattr(metric, "name", None)
            if name in names:
                raise ArgumentError(
                    f"metrics: the name {name!r} is taken by a penalty; give the metric or the "
                    "penalty its own name=."
                )

    def _check_loss(self, loss):
        if loss is None:
            return
        name = loss if isinstance(loss, str) else getattr(loss, "name", type(loss).__name__)
        logits = getattr(loss, "from_logits", None)
        if logits is None and isinstance(loss, keras.losses.Loss):
            logits = loss.get_config().get("from_logits")
        if logits is None and inspect.isfunction(loss):
            name = loss.__name__
            parameter = inspect.signature(loss).parameters.get("from_logits")
            logits = parameter.default if parameter else None
        if isinstance(loss, str) and "crossentropy" in loss.lower():
            logits = False
        if logits is False and self.penalties:
            raise ArgumentError(
                f"loss: {name!r} expects probabilities, but penalties need a network that returns "
                "logits. Use keras.losses.SparseCategoricalCrossentropy(from_logits=True)."
            )
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        if self.distribute_strategy.num_replicas_in_sync > 1 and reduction not in (
            "sum_over_batch_size",
            "mean",
        ):
            raise ArgumentError(
                f"loss: {name!r} has reduction={reduction!r}; on several replicas expected "
                "'sum_over_batch_size', which tfgrad divides by the global batch."
            )
