"""One compiled network that is trained several times, each time from new weights."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import data, distribution
from tfgrad.data.dataset import Dataset
from tfgrad.errors import ArgumentError, NonFiniteError
from tfgrad.evaluation.digests import layers_digest, nameless, weights_digest
from tfgrad.evaluation.networks import class_count
from tfgrad.gradients import class_scores
from tfgrad.models import output_meaning
from tfgrad.training.stop_on_non_finite import StopOnNonFinite


@dataclasses.dataclass(frozen=True)
class EditedDataset:
    """A data set with the edit of its stream.

    Attributes:
        dataset: The data set.
        edit: The argument `edit` of `data.pipeline`; None for no edit.
    """

    dataset: Dataset
    edit: Any = None


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """The training of every run; see `remove_and_retrain`.

    Attributes:
        epochs: Number of epochs.
        batch_size: Number of images per global batch.
        augment: The argument `augment` of `data.pipeline`.
        statistics: (mean, std) of the channels, or None.
    """

    epochs: int
    batch_size: int
    augment: bool | str
    statistics: tuple[Any, Any] | None


class Retrainer:
    """A compiled network that starts every run as a newly built one would, and is traced once.

    Args:
        build: Returns the compiled model.
        like: A data set of the images and classes that the model must take.
        training: The training of every run.
        strategy: The strategy under which the model is built and trained.
        callbacks: Callbacks of `fit`.

    Raises:
        ArgumentError: `build` returns no compiled and built model, or one for other images or
            classes.
        ModelError: The model does not return one tensor of logits.
    """

    def __init__(
        self,
        build: Callable[[], keras.Model],
        like: Dataset,
        training: TrainingSettings,
        strategy: tf.distribute.Strategy,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        if not callable(build):
            raise ArgumentError(
                f"build: got a {type(build).__name__}; expected a function that returns a compiled "
                "keras.Model, newly built at every call."
            )
        self.build, self.training, self.strategy = build, training, strategy
        self.callbacks = list(callbacks)
        self.model = self._built(0)
        self._start = weights_digest(self.model)
        x = tf.zeros([1, *like.image_shape])
        classes = class_count(self.model, x, "train", "model that build() returned")
        if classes != len(like.classes):
            raise ArgumentError(
                f"build: got a model of {classes} classes for {len(like.classes)} of "
                f"{like.name!r}; expected as many."
            )
        self._evaluate = tf.function(self._counts, autograph=False).get_concrete_function(
            tf.TensorSpec([None, *like.image_shape]), tf.TensorSpec([None], tf.int32)
        )

    def settings(self) -> dict[str, Any]:
        """What the result of a run depends on besides its data and seed, in a form of JSON."""
        statistics = self.training.statistics
        penalties = getattr(self.model, "penalties", ())
        teacher = getattr(self.model, "teacher", None)
        return {
            **dataclasses.asdict(self.training),
            "statistics": statistics and [np.asarray(part).tolist() for part in statistics],
            "layers": layers_digest(self.model),
            "weights of seed 0": self._start,
            "teacher": teacher and weights_digest(teacher),
            "penalties": [repr(penalty) for penalty in penalties],
            "compiled": nameless(self.model.get_compile_config()),
        }

    def run(self, seed: int, train: EditedDataset, test: EditedDataset) -> dict[str, Any]:
        """Train from the weights of a seed, and test.

        Returns:
            `{"accuracy": …, "failed": None}` with an accuracy in [0, 1]; or, if the loss or the
            logits did not stay finite, `{"accuracy": None, "failed": the reason}`.
        """
        self._restart(seed)
        try:
            self._fit(seed, train)
            return {"accuracy": self._accuracy(test), "failed": None}
        except NonFiniteError as error:
            return {"accuracy": None, "failed": str(error)}

    def _fit(self, seed: int, edited: EditedDataset) -> None:
        def stream(index: int, count: int) -> tf.data.Dataset:
            return self._stream(
                edited,
                training=True,
                seed=seed,
                augment=self.training.augment,
                shard=(index, count),
            )

        self.model.fit(
            distribution.local_slices(self.strategy, stream),
            epochs=self.training.epochs,
            steps_per_epoch=data.steps_per_epoch(edited.dataset, self.training.batch_size),
            callbacks=[StopOnNonFinite("no weights were kept"), *self.callbacks],
            shuffle=False,
            verbose=0,
        )

    def _accuracy(self, edited: EditedDataset) -> float:
        found = [self._evaluate(x, y) for x, y in self._stream(edited, training=False)]
        right, finite = np.asarray(found).sum(0)
        count = len(edited.dataset)
        if finite < count:
            raise NonFiniteError(
                f"network: the logits of {count - finite} of {count} test images are NaN or "
                "infinite; expected finite ones. Try a lower learning rate."
            )
        return float(right / count)

    def _counts(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """The number of images classified correctly, and the number with finite logits."""
        logits = tf.nest.flatten(self.model(x, training=False))[0]
        meaning = output_meaning.meaning(self.model, count=logits.shape[-1])
        right = tf.equal(class_scores.predicted(logits, meaning), y)
        finite = tf.reduce_all(tf.math.is_finite(logits), -1)
        return tf.reduce_sum(tf.cast(tf.stack([right, finite]), tf.int32), -1)

    def _stream(self, edited: EditedDataset, **options: Any) -> tf.data.Dataset:
        return data.pipeline(
            edited.dataset,
            self.training.batch_size,
            normalize=self.training.statistics,
            edit=edited.edit,
            **options,
        )

    def _restart(self, seed: int) -> None:
        """Give the model the weights, random seeds and optimizer state of a newly built one."""
        old, new = _state(self.model), _state(self._built(seed))
        if [v.shape for v in old] != [v.shape for v in new]:
            raise ArgumentError(
                f"build: got a model of {len(new)} variables after one of {len(old)}, or of other "
                "shapes; expected the same network at every call."
            )
        for variable, start in zip(old, new, strict=True):
            variable.assign(start.numpy())

    def _built(self, seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        with self.strategy.scope():
            model = self.build()
            expected = (
                "expected a compiled keras.Model with a keras.Input, newly built at every call"
            )
            if not isinstance(model, keras.Model):
                raise ArgumentError(f"build: got a {type(model).__name__}; {expected}.")
            if not model.compiled or model.optimizer is None or not model.built:
                lacks = "built" if model.compiled else "compiled"
                raise ArgumentError(f"build: got a model that is not {lacks}; {expected}.")
            if model is getattr(self, "model", None):
                raise ArgumentError(f"build: got the same model again; {expected}.")
            model.optimizer.build(model.trainable_variables)
        return model


def _state(model: keras.Model) -> list[Any]:
    """Every variable that training changes."""
    return list(itertools.chain(model.variables, model.optimizer.variables))
