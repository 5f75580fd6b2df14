"""`GradientAngle`: the angle between a teacher's and a student's input-gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.gradients import targets
from tfgrad.gradients.model_checks import Wrapper, check_logits, returning_logits
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer
from tfgrad.models import output_meaning


class GradientAngle(keras.callbacks.Callback):
    """Logs the mean angle between the teacher's and the student's input-gradients, in degrees.

    0 if they have the same direction, 90 if they are orthogonal or one is zero: the angle over all
    pixels of an image, averaged over the images, both networks in inference mode. Measured at the
    end of every `every`-th epoch and of the last, and put into that epoch's `logs`: callbacks
    *after* this one in the list read it (`keras.callbacks.TensorBoard`, `JsonLines`,
    `EarlyStopping`), and the history of `fit` has one entry per measurement.

    The teacher must not change: its gradients are computed when training first starts and kept in
    memory with the images.

    Args:
        teacher: A Keras model that returns logits [batch, classes]. Of one that ends in a softmax
            or a sigmoid, and of such a student, the logits are taken: see `tfgrad.models.logits`.
        x: Images, an array; or a finite `tf.data.Dataset` of (x, y) batches, read once.
        y: Labels, for an array x and target `"label"`: class indices [n] or one-hot rows.
        target: The logit that is differentiated, see `tfgrad.targets`; not `"all"`. `"predicted"`
            is the class that the teacher predicts, for both networks.
        every: Epochs between measurements, an integer ≥ 1.
        batch_size: Images per backward pass, an integer ≥ 1.
        head: Output of a student with several, see `tfgrad.models.two_heads`.
        name: Name of the metric.
        outputs: What the outputs of both mean, see `tfgrad.models.output_meaning`; None for what
            the student's compiled loss says.

    The student is the network of a `tfgrad.PenalizedModel`, or any other model itself.

    Raises:
        ArgumentError: An argument is wrong, or labels are missing.
        DataError: An image holds NaN or infinite pixels, as training starts.
        ModelError: Teacher or student returns probabilities of no activation that can be left out,
            as training starts.

    Warns:
        LogitsWarning: A softmax or sigmoid is left out; once per model.

    Source: Srinivas, *Gradient-based Methods for Deep Model Interpretability*, §4.4.1, Fig. 4.1.
    """

    def __init__(
        self,
        teacher: keras.Model,
        x: Any,
        y: Any = None,
        target: Any = "label",
        every: int = 1,
        batch_size: int = 256,
        head: Any = None,
        name: str = "gradient_angle",
        *,
        outputs: Any = None,
    ) -> None:
        super().__init__()
        if not isinstance(teacher, keras.Model):
            raise ArgumentError(
                f"teacher: got {type(teacher).__name__}; expected a keras.Model of logits."
            )
        self.teacher, self.head, self.name = teacher, head, name
        self.target = targets.validated(target, allow_all=False)
        self.outputs = output_meaning.check(outputs)
        self.every = integer("every", every)
        self.batch_size = integer("batch_size", batch_size)
        self._by_label = isinstance(self.target, str) and self.target == "label"
        self._x, self._y = _images_and_labels(x, y, self._by_label)
        self._batches: list[tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None
        self._network: keras.Model | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Compute the teacher's gradients, the first time; later runs reuse them."""
        network = self._returning_logits(self.model, "model")
        if network is not self._network:
            _check_finite(self._x)
            first = Probe(network, self._x[:1])
            classes = (first if self.head is None else first.on(self.head)).logits.shape[-1]
            meaning = output_meaning.known(network, self.outputs, classes, self.head)
            self._batches = self._batches or self._teacher_gradients(meaning)
            self._angles = _angles_to(network, self.head, self._x, meaning)
            self._network = network

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure the angle and put it into `logs`, in epochs that are measured."""
        last = epoch + 1 == self.params.get("epochs")
        if logs is not None and ((epoch + 1) % self.every == 0 or last):
            angles = [self._angles(*batch).numpy() for batch in self._batches or ()]
            logs[self.name] = float(np.mean(np.concatenate(angles)))

    def _returning_logits(self, model: Any, role: str) -> Any:
        """A model without its last softmax or sigmoid, checked for probabilities."""
        network = model.network if isinstance(model, Wrapper) else model
        if not network.built:  # what it ends in is known once it is
            network(self._x[:1], training=False)
        images = tf.TensorSpec((None, *self._x.shape[1:]), self._x.dtype)
        network = returning_logits(network, images)
        check_logits(network, images, role)
        return network

    def _teacher_gradients(
        self, meaning: str | None
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(images, classes, the teacher's gradients) of every batch of the data, as arrays."""
        target, batches = self.target, []
        teacher = self._returning_logits(self.teacher, "teacher")
        several = tf.is_tensor(target) and target.shape.rank == 1
        if several and len(target) != len(self._x):
            raise ArgumentError(
                f"target: got {len(target)} classes for {len(self._x)} images; expected one each."
            )
        for start in range(0, len(self._x), self.batch_size):
            piece = slice(start, start + self.batch_size)
            y = None if self._y is None else self._y[piece]
            probe = Probe(teacher, self._x[piece], y, outputs=meaning)
            classes = probe.classes(target[piece] if several else target)
            gradient = probe.input_gradient(classes)
            batches.append((self._x[piece], classes.numpy(), gradient.numpy()))
        return batches


def _angles_to(
    network: keras.Model, head: Any, images: np.ndarray, meaning: str | None
) -> Callable[[Any, Any, Any], tf.Tensor]:
    """A function (images, classes, another network's gradients) → angles [batch], in degrees."""
    kind = tf.TensorSpec((None, *images.shape[1:]), images.dtype)
    signature = [kind, tf.TensorSpec([None], tf.int32), kind]

    @tf.function(input_signature=signature, autograph=False)
    def angles(x: tf.Tensor, classes: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        probe = Probe(network, x, outputs=meaning)
        own = (probe if head is None else probe.on(head)).input_gradient(classes)
        # In float64, where the arc cosine near 1 is good to 1e-6 degrees.
        a, b = (tf.cast(tf.reshape(g, [tf.shape(x)[0], -1]), tf.float64) for g in (own, other))
        norms = tf.norm(a, axis=1) * tf.norm(b, axis=1)
        cosine = tf.math.divide_no_nan(tf.reduce_sum(a * b, axis=1), norms)
        return tf.acos(tf.clip_by_value(cosine, -1.0, 1.0)) * (180.0 / np.pi)

    return angles


def _check_finite(images: np.ndarray) -> None:
    """Raise if an image has no gradient, of which the logged mean would be NaN."""
    finite = np.isfinite(images).reshape(len(images), -1).all(1)
    if not finite.all():
        raise DataError(
            f"x: example {int(finite.argmin())} of {len(images)} holds NaN or infinite pixels; "
            "expected finite ones. Look for a division by zero in the preprocessing."
        )


def _images_and_labels(x: Any, y: Any, by_label: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Arrays (images, labels or None) from arrays or one pass over a data set.

    Raises:
        ArgumentError: The data set has no end or labels beside it; there are no images, or not one
            label per image.
    """
    if isinstance(x, tf.data.Dataset):
        if y is not None:
            raise ArgumentError("y: got labels beside a data set; expected them in its batches.")
        if x.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ArgumentError("x: got a data set without end; expected a finite one. Use .take.")
        batches = [b if isinstance(b, tuple) else (b,) for b in x]
        x = np.concatenate([np.asarray(b[0]) for b in batches]) if batches else np.zeros(0)
        if by_label and batches and len(batches[0]) > 1:
            y = np.concatenate([np.asarray(b[1]) for b in batches])
    x = np.asarray(x)
    if x.ndim < 2 or not len(x):
        raise ArgumentError(f"x: got shape {x.shape}; expected images [batch, …], at least one.")
    if not by_label:
        return x, None
    if y is None:
        raise ArgumentError(
            "y: got None; expected labels, which target='label' needs. Or use target='predicted'."
        )
    if len(y) != len(x):
        raise ArgumentError(f"y: got {len(y)} labels for {len(x)} images; expected one per image.")
    return x, np.asarray(y)
