"""A Keras model around a network: same inputs, outputs and trainable variables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfgrad import distribution, second_order
from tfgrad.errors import ModelError
from tfgrad.gradients import output_heads
from tfgrad.gradients.model_checks import Wrapper
from tfgrad.internal import keras_private
from tfgrad.models.preprocessors import own_preprocessor, preprocessed
from tfgrad.penalties.examples import Examples, apart, unpacked, with_inputs
from tfgrad.penalties.teacher import Lesson
from tfgrad.training import before_the_step
from tfgrad.training.failures import with_clear_errors


class NetworkWrapper(Wrapper, keras.Model):
    """A Keras model that calls, trains and predicts with a network of its own.

    Args:
        network: The network.
        name: Name of the model.
        **kwargs: Passed on to `keras.Model`.
    """

    jit_compile: Any  # a property of `keras.Model`

    def __init__(self, network: keras.Model, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.network = network
        self._evaluating = self._symbolically_built = self._makes_steps = False
        self._changes_seen = second_order.changes()

    def call(self, x: Any, training: bool | None = None) -> Any:
        """The network's logits."""
        return self.network(x, training=training)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.compile`."""
        self._symbolically_built = False
        super().compile(*args, **kwargs)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """As `keras.Model.compute_loss`, on the heads that have labels."""
        return super().compute_loss(
            x, y, output_heads.labelled(self.network, y_pred, y), sample_weight, training
        )

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """As `keras.Model.compute_metrics`, on the heads that have labels."""
        return super().compute_metrics(
            x, y, output_heads.labelled(self.network, y_pred, y), sample_weight
        )

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.fit`; validation data without labels may be `Examples` alone."""
        if isinstance(kwargs.get("validation_data"), Lesson | Examples):
            kwargs["validation_data"] = (kwargs["validation_data"],)
        return with_clear_errors(super().fit, *args, **kwargs)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`."""
        return with_clear_errors(super().train_on_batch, *args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.predict`."""
        return with_clear_errors(super().predict, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`, without the metrics that only training computes."""
        with self._in_evaluation():
            return with_clear_errors(super().evaluate, *args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.test_on_batch`, without the metrics that only training computes."""
        with self._in_evaluation():
            return with_clear_errors(super().test_on_batch, *args, **kwargs)

    def make_train_function(self, force: bool = False) -> None:
        """As `keras.Model.make_train_function`; anew after `second_order.make_safe`."""
        changes = second_order.changes()
        super().make_train_function(force or changes != self._changes_seen)
        self._changes_seen = changes

    @contextlib.contextmanager
    def _in_evaluation(self) -> Iterator[None]:
        """In this context `metrics` leaves out those that only training computes."""
        self._evaluating = True
        try:
            yield
        finally:
            self._evaluating = False

    def _metrics_of_training(self) -> list[keras.metrics.Metric]:
        """The metrics that only training computes."""
        return []

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """All metrics; during `evaluate` those that it computes."""
        metrics = super().metrics
        if self._evaluating:
            hidden = {id(metric) for metric in self._metrics_of_training()}
            metrics = [metric for metric in metrics if id(metric) not in hidden]
        return metrics

    def predict_step(self, data: Any) -> Any:
        """Logits of one batch."""
        x, _, _ = unpacked(self._preprocessed(data))
        x = apart(x)[0]
        if distribution.share_of(x).replicas == 1:
            return self(x, training=False)
        size = tf.shape(tf.nest.flatten(x)[0])[0]
        outputs = self(distribution.one_at_least(x), training=False)
        return tf.nest.map_structure(lambda t: t[:size], outputs)

    def _preprocessed(self, data: Any) -> Any:
        """A batch as the network's call takes it: after its own preprocessor, if it has one.

        The tasks of KerasHub run theirs in `fit`, `evaluate` and `predict`, and so does this model.
        """
        if own_preprocessor(self.network) is None:
            return data
        x, y, weight = unpacked(data)
        inputs, y, weight = preprocessed(self.network, apart(x)[0], y, weight)
        return with_inputs(x, inputs), y, weight

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """Those of the network; everything else is frozen, whatever its `trainable` is."""
        return self.network.trainable_variables if self.trainable else []

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """As `trainable_variables`."""
        return self.network.trainable_weights if self.trainable else []

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        """All other variables, including those of a teacher."""
        trained = {id(v) for v in self.trainable_variables}
        return [v for v in self.variables if id(v) not in trained]

    @property
    def non_trainable_weights(self) -> list[keras.Variable]:
        """As `non_trainable_variables`, without metrics and seeds."""
        trained = {id(v) for v in self.trainable_weights}
        return [v for v in self.weights if id(v) not in trained]

    def save_own_variables(self, store: Any) -> None:
        """Save the state, beside weights, that an exact continuation needs, such as seeds."""
        for name, variable in self._own_state():
            store[name] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """The counterpart of `save_own_variables`.

        Raises:
            ModelError: A variable is missing in the file.
        """
        for name, variable in self._own_state():
            if name not in store:
                raise ModelError(
                    f"model {self.name!r}: got a file without {name!r}; expected one saved from a "
                    f"{type(self).__name__} made with the same arguments."
                )
            variable.assign(store[name])

    def _own_state(self) -> Iterator[tuple[str, keras.Variable]]:
        """(name, variable) of the state that belongs to no layer."""
        weights = {id(v) for v in self.network.weights}
        seeds = (v for v in self.network.variables if id(v) not in weights)
        for i, seed in enumerate(seeds):
            yield f"seed_{i}", seed

    def _logs(self, received: Any) -> dict[str, Any]:
        """The metrics so far, updated with (x, y, outputs, sample weights)."""
        logs = self.compute_metrics(*received)
        if distribution.is_multi_worker(self.distribute_strategy):
            # Keras averages the logs of the workers over axis 0, which a scalar does not have.
            logs = {name: tf.reshape(value, [1]) for name, value in logs.items()}
        return logs

    def _checked_outside(self, data: Any) -> Any:
        """A batch behind the checks that XLA would drop inside the step."""
        return data

    def _make_function(self, step_function: Any) -> Any:
        """The function of a training or test step."""
        self._makes_steps = True
        try:
            return super()._make_function(step_function)
        finally:
            self._makes_steps = False

    def _autoconvert_optionals(self, step_func: Any) -> Any:
        """The step as Keras calls it, outside of what XLA compiles.

        Keras compiles the step of one batch, and not the function around it that takes the batch
        from the data set: assertions there are kept.
        """
        if self._makes_steps and self.jit_compile:
            # A function of its own, for batches that come without one (`train_on_batch`).
            checked = tf.function(self._checked_outside, autograph=False, reduce_retracing=True)
            return super()._autoconvert_optionals(lambda data: step_func(checked(data)))
        return super()._autoconvert_optionals(step_func)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build under a strategy from one replica's part of a batch, and without one from shapes.

        Keras reduces the whole batch over the replicas for this, which fails across workers
        (keras-team/keras#20585); only shapes and dtypes are needed. Done once, because validation
        data that end with their epoch have no batch to look at in the next.
        """
        if self._symbolically_built:
            return
        if not keras_private.is_distributed(self):
            if not self._evaluating:
                before_the_step.build(self, iterator, data_batch)
            return
        strategy = self.distribute_strategy
        if iterator is not None:
            for _, _, batches in iterator:
                data_batch = distribution.local_value(strategy, next(batches))
                break
        x, *labels = unpacked(self._preprocessed(data_batch))
        x = apart(x)[0]
        with strategy.scope():
            keras_private.symbolic_build(self, (x, *labels))
        self._symbolically_built = True
