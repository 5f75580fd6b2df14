"""Keras callbacks for runs that lose nothing: exact backups, a stop at NaN, a record, time left."""

import contextlib
import glob
import json
import os
import re
import time

import keras
import numpy as np

from tfgrad.errors import ModelError, NonFiniteError


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
