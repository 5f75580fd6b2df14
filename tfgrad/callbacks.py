"""Keras callbacks: exact backups, a stop at NaN, a record, time left, the angle to a teacher."""

import contextlib
import glob
import json
import os
import re
import time

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError, NonFiniteError
from tfgrad.gradients import targets
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer


class Backup(keras.callbacks.Callback):
    """Saves the whole training state after every epoch, so that a killed run goes on exactly.

    Weights, optimizer, random seeds and penalty weights go into one file whose name carries the
    epoch, written aside and renamed: there is no moment at which a kill leaves half a state, or
    weights of one epoch beside the number of another. (`keras.callbacks.BackupAndRestore` has
    both, and forgets the seeds of `Dropout`.)

    A state that is not finite is not saved.

    Args:
        directory: where the state is kept.

    Example:

    ```python
    backup = tfgrad.callbacks.Backup("runs/mine/state")
    done = backup.restore(model)          # 0 on the first start
    model.fit(x, y, epochs=20, initial_epoch=done, callbacks=[backup])
    ```
    """

    def __init__(self, directory):
        super().__init__()
        self.directory = os.fspath(directory)

    def restore(self, model) -> int:
        """Load the latest state into a built and compiled model; returns the epochs done."""
        states = self._states()
        if not states:
            return 0
        epoch = max(states)
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        try:
            model.load_weights(states[epoch])
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{states[epoch]}: not a state of this model ({str(error).splitlines()[0]}); it is "
                "damaged or belongs to another network or other penalties. Remove it to start anew."
            ) from error
        return epoch

    def kept(self) -> str:
        """What is there, for a message."""
        states = self._states()
        if not states:
            return f"no epoch was finished, so {self.directory} holds no state"
        return f"the state of epoch {max(states)} is kept in {self.directory}"

    def on_epoch_end(self, epoch, logs=None):
        """Write the state of `epoch + 1` finished epochs, then drop the older one."""
        for variable in self.model.trainable_variables:
            if not np.isfinite(np.asarray(variable.numpy(), "float32")).all():
                raise NonFiniteError(
                    f"weights: {variable.path} is not finite after epoch {epoch + 1}; "
                    f"{self.kept()}. Try a lower learning rate or penalty weight."
                )
        os.makedirs(self.directory, exist_ok=True)
        path = os.path.join(self.directory, f"epoch-{epoch + 1:05d}.weights.h5")
        aside = os.path.join(self.directory, "unfinished.weights.h5")
        self.model.save_weights(aside, overwrite=True)
        os.replace(aside, path)
        for done, old in self._states().items():
            if done <= epoch:
                os.remove(old)

    def _states(self):
        found = {}
        for path in glob.glob(os.path.join(glob.escape(self.directory), "epoch-*.weights.h5")):
            match = re.search(r"epoch-(\d+)\.weights\.h5$", path)
            if match:
                found[int(match[1])] = path
        return found


class StopOnNonFinite(keras.callbacks.Callback):
    """Raises NonFiniteError at the first batch whose running loss is NaN or infinite.

    Args:
        kept: what to tell the user about the last good state, or a function that returns it, such
            as `Backup.kept`.
    """

    def __init__(self, kept="the last saved state is untouched"):
        super().__init__()
        self.kept, self._epoch = kept, 0

    def on_epoch_begin(self, epoch, logs=None):
        """Remember where we are."""
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Look at the loss, and name the first metric that is not finite."""
        logs = logs or {}
        if np.isfinite(logs.get("loss", 0.0)):
            return
        kept = self.kept() if callable(self.kept) else self.kept
        culprits = [k for k, v in logs.items() if k != "loss" and not np.isfinite(v)]
        raise NonFiniteError(
            f"loss: {logs['loss']} at batch {batch + 1} of epoch {self._epoch + 1}"
            + (f" (also {', '.join(culprits)})" if culprits else "")
            + f"; {kept}. Try a lower learning rate or penalty weight."
        )


class JsonLines(keras.callbacks.Callback):
    """Appends every epoch's metrics to a file, one JSON object a line.

    Args:
        path: the file; lines of epochs that will be run again are dropped when training starts.
        first_epoch: epochs already done.
    """

    def __init__(self, path, first_epoch=0):
        super().__init__()
        self.path, self.first_epoch = os.fspath(path), first_epoch

    def on_train_begin(self, logs=None):
        """Keep the lines of the epochs that are done."""
        kept = [r for r in read_json_lines(self.path) if r["epoch"] <= self.first_epoch]
        with open(f"{self.path}.tmp", "w") as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
        os.replace(f"{self.path}.tmp", self.path)

    def on_epoch_begin(self, epoch, logs=None):
        """Start the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Write the line."""
        seconds = time.perf_counter() - self._start
        record = {"epoch": epoch + 1, "seconds": round(seconds, 3)}
        record.update({k: float(v) for k, v in (logs or {}).items()})
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")


class TimeLeft(keras.callbacks.Callback):
    """Prints one line an epoch: metrics, seconds, time left for the whole run.

    Args:
        epochs: of the whole run.
    """

    def __init__(self, epochs):
        super().__init__()
        self.epochs, self._seconds = epochs, []

    def on_epoch_begin(self, epoch, logs=None):
        """Start the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Print the line; the time left goes by the mean of the last five epochs."""
        self._seconds = [*self._seconds[-4:], time.perf_counter() - self._start]
        left = (self.epochs - epoch - 1) * sum(self._seconds) / len(self._seconds)
        metrics = "  ".join(f"{k} {v:.4g}" for k, v in (logs or {}).items())
        print(
            f"epoch {epoch + 1}/{self.epochs}  {metrics}  "
            f"{self._seconds[-1]:.1f} s, {_clock(left)} left",
            flush=True,
        )


class GradientAngle(keras.callbacks.Callback):
    """Logs the mean angle between the teacher's and the student's input-gradients, in degrees.

    0 where they point the same way, 90 where they know nothing of each other or one is zero: the
    angle over all pixels of an image, averaged over the images, both networks in inference mode.
    Measured at the end of every `every`-th epoch and of the last, and put into that epoch's `logs`:
    callbacks that stand *after* this one in the list see it (`keras.callbacks.TensorBoard`,
    `JsonLines`, `EarlyStopping`), and the history of `fit` has an entry per measurement.

    The teacher is taken to stand still: its gradients are computed when training first starts and
    kept in memory beside the images.

    Args:
        teacher: a Keras model that returns logits [batch, classes].
        x: images, an array; or a finite `tf.data.Dataset` of (x, y) batches, read once.
        y: integer labels, for an array x and target `"label"`.
        target: whose logit is differentiated, see `tfgrad.targets`; not `"all"`. `"predicted"` is
            the class that the teacher predicts, for both.
        every: epochs between measurements.
        batch_size: images per backward pass.
        head: the output of a student with several, see `tfgrad.models.two_heads`.
        name: of the metric.

    The student is the network of a `tfgrad.PenalizedModel`, and any other model itself.

    Raises:
        ArgumentError: an argument is wrong, or labels are missing.

    Source: Srinivas, *Gradient-based Methods for Deep Model Interpretability*, §4.4.1, Fig. 4.1.
    """

    def __init__(
        self,
        teacher,
        x,
        y=None,
        target="label",
        every=1,
        batch_size=256,
        head=None,
        name="gradient_angle",
    ):
        super().__init__()
        if not isinstance(teacher, keras.Model):
            raise ArgumentError(
                f"teacher: got {type(teacher).__name__}; expected a keras.Model (images → logits)."
            )
        self.teacher, self.head, self.name = teacher, head, name
        self.target = targets.validated(target, allow_all=False)
        self.every = integer("every", every)
        self.batch_size = integer("batch_size", batch_size)
        self._by_label = isinstance(self.target, str) and self.target == "label"
        self._x, self._y = _images_and_labels(x, y, self._by_label)
        self._lessons: list | None = None
        self._network = None

    def on_train_begin(self, logs=None):
        """Ask the teacher, the first time; later runs keep its answers."""
        network = self.model.network if hasattr(self.model, "penalties") else self.model
        if network is not self._network:
            self._network, self._angles = network, _angles_to(network, self.head, self._x)
        if self._lessons is None:
            self._lessons = self._ask_teacher()

    def on_epoch_end(self, epoch, logs=None):
        """Measure, where it is time, and put the angle into `logs`."""
        last = epoch + 1 == self.params.get("epochs")
        if logs is not None and ((epoch + 1) % self.every == 0 or last):
            pieces = [self._angles(*lesson).numpy() for lesson in self._lessons or ()]
            logs[self.name] = float(np.mean(np.concatenate(pieces)))

    def _ask_teacher(self):
        """(images, classes, the teacher's gradients) of every piece of the data, in host memory."""
        target, lessons = self.target, []
        several = tf.is_tensor(target) and target.shape.rank == 1
        if several and len(target) != len(self._x):
            raise ArgumentError(
                f"target: got {len(target)} classes for {len(self._x)} images; expected one each."
            )
        for start in range(0, len(self._x), self.batch_size):
            piece = slice(start, start + self.batch_size)
            y = None if self._y is None else self._y[piece]
            probe = Probe(self.teacher, self._x[piece], y)
            classes = probe.classes(target[piece] if several else target)
            gradient = probe.input_gradient(classes)
            lessons.append((self._x[piece], classes.numpy(), gradient.numpy()))
        return lessons


def _angles_to(network, head, images):
    """A function of (images, classes, another network's gradients): angles [batch], degrees."""
    kind = tf.TensorSpec((None, *images.shape[1:]), images.dtype)
    signature = [kind, tf.TensorSpec([None], tf.int32), kind]

    @tf.function(input_signature=signature, autograph=False)
    def angles(x, classes, other):
        probe = Probe(network, x)
        own = (probe if head is None else probe.on(head)).input_gradient(classes)
        # In float64, where the arc cosine near 1 is good to 1e-6 degrees.
        a, b = (tf.cast(tf.reshape(g, [tf.shape(x)[0], -1]), tf.float64) for g in (own, other))
        norms = tf.norm(a, axis=1) * tf.norm(b, axis=1)
        cosine = tf.math.divide_no_nan(tf.reduce_sum(a * b, axis=1), norms)
        return tf.acos(tf.clip_by_value(cosine, -1.0, 1.0)) * (180.0 / np.pi)

    return angles


def _images_and_labels(x, y, by_label):
    """Arrays (images, labels or None) from arrays or one pass over a data set."""
    if isinstance(x, tf.data.Dataset):
        if y is not None:
            raise ArgumentError("y: got labels beside a data set; expected them in its batches.")
        if x.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ArgumentError("x: got a data set without end; expected a finite one, see .take.")
        batches = [b if isinstance(b, tuple) else (b,) for b in x]
        x = np.concatenate([np.asarray(b[0]) for b in batches]) if batches else np.zeros(0)
        if by_label and batches and len(batches[0]) > 1:
            y = np.concatenate([np.asarray(b[1]) for b in batches])
    x = np.asarray(x)
    if x.ndim < 2 or not len(x):
        raise ArgumentError(f"x: got shape {x.shape}; expected images [batch, …], one or more.")
    if not by_label:
        return x, None
    if y is None:
        raise ArgumentError("y: got None; target='label' needs labels. Or use target='predicted'.")
    if len(y) != len(x):
        raise ArgumentError(f"y: got {len(y)} labels for {len(x)} images; expected one per image.")
    return x, np.asarray(y)


def read_json_lines(path):
    """The records of a `JsonLines` file; a last line cut short by a kill is left out."""
    records = []
    if os.path.exists(path):
        with open(path) as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    records.append(json.loads(line))
    return records


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
