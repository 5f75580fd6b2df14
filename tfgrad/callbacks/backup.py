"""`Backup`: the whole training state after every epoch."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from typing import Any

import keras

from tfgrad.errors import ModelError, NonFiniteError, ResumeError
from tfgrad.gradients.model_checks import nonfinite_weight
from tfgrad.internal import files, ownership

_SUFFIX = ".weights.h5"  # Keras demands it of a file of weights.
_STATE = re.compile(r"epoch-(\d+)\.weights\.h5")
# Files that a killed process was writing: those of `replaced`, and of version 0.1.


class Backup(keras.callbacks.Callback):
    """Saves the whole training state after every epoch, so that an interrupted run can resume.

    The resumed run is bit-identical to an uninterrupted one. Weights, optimizer, random seeds and
    penalty weights are written to one file whose name contains the epoch, and the file appears
    under one rename: a kill at any moment leaves neither half a state nor the weights of one epoch
    with the number of another. (`keras.callbacks.BackupAndRestore` can leave both, and does not
    save the seeds of `Dropout`.)

    A state that is not finite is not saved. Where the disk is full, the earlier state survives.

    The file is made in memory, which takes the size of the state once more while it is written.

    During `fit` the directory has one owner: a second process that trains with it raises
    `InUseError`, on the first epoch. The lock is the kernel's and ends with the process, however
    that ends; it works over NFS unless mounted with `nolock`, and not on Windows. The workers of
    one distributed run (one `cluster` in TF_CONFIG) may share a directory: one of them writes.
    `restore` alone needs no lock.

    Args:
        directory: Directory of the state.

    Raises:
        WriteError: From `fit`: the state cannot be written; the message says which one is kept.
        InUseError: From `fit`: another process is training with the same directory.
        ResumeError: From `fit`: another process has trained since `restore`.

    Example:

    ```python
    backup = tfgrad.callbacks.Backup("runs/mine/state")
    done = backup.restore(model)          # 0 on the first start
    model.fit(x, y, epochs=20, initial_epoch=done, callbacks=[backup])
    ```
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        super().__init__()
        self.directory = os.fspath(directory)
        self._restored: int | None = None
        self._owns = False

    def restore(self, model: keras.Model) -> int:
        """Load the latest state into a built and compiled model.

        Returns:
            The number of completed epochs; 0 if there is no state.

        Raises:
            ModelError: The state is damaged, or is one of another model.
            OSError: It cannot be read.
        """
        states = self._states()
        epoch = self._restored = max(states, default=0)
        if not states:
            return 0
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        with open(states[epoch], "rb"):  # what cannot be read is not damaged
            pass
        try:
            model.load_weights(states[epoch])
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{states[epoch]}: not a state of this model ({str(error).splitlines()[0]}); it is "
                "damaged or belongs to another network or other penalties. Remove it to start anew."
            ) from error
        return epoch

    def kept(self) -> str:
        """Which state is saved, as part of a message."""
        states = self._states()
        if not states:
            return f"no epoch was finished, so {self.directory} holds no state"
        return f"the state of epoch {max(states)} is kept in {self.directory}"

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Own the directory until training ends.

        Raises:
            InUseError: Another process owns it.
            ResumeError: Its state is not the one that was restored.
            WriteError: It cannot be written.
        """
        self._own()
        restored, self._restored = self._restored, None
        latest = max(self._states(), default=0)
        if self._owns and restored is not None and restored != latest:
            raise ResumeError(
                f"directory: got {self.directory!r}, which holds the state of epoch {latest}; "
                f"expected that of epoch {restored}, which `restore` read before another process "
                "trained. Call `restore` again, or choose another directory."
            )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Let go of the directory."""
        if self._owns:
            ownership.release(self._lock)
            self._owns = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the state of `epoch + 1` completed epochs, then remove the older one.

        Raises:
            NonFiniteError: A weight is NaN or infinite.
        """
        broken = nonfinite_weight(self.model.trainable_variables)
        if broken is not None:
            raise NonFiniteError(
                f"weights: {broken} is not finite after epoch {epoch + 1}; {self.kept()}. Try a "
                "lower learning rate or penalty weight."
            )
        if not self._owns:
            self._own()
        if not self._owns:  # another worker of this run writes the same state
            return
        files.make_directory(self.directory)
        path = os.path.join(self.directory, f"epoch-{epoch + 1:05d}{_SUFFIX}")
        try:
            files.write_weights(path, self.model)
        except OSError as error:
            raise files.cannot_write(error, "directory", path, self.kept()) from error
        outdated = [old for done, old in self._states().items() if done <= epoch]
        for old in outdated:
            os.remove(old)
        files.remove_temporaries(self.directory, f"epoch-*{_SUFFIX}")
        with contextlib.suppress(OSError):
            os.remove(os.path.join(self.directory, f"unfinished{_SUFFIX}"))  # of version 0.1

    @property
    def _lock(self) -> str:
        return os.path.join(self.directory, ownership.LOCK)

    def _own(self) -> None:
        try:
            self._owns = ownership.own(self._lock, "directory", self.directory)
        except OSError as error:
            raise files.cannot_write(error, "directory", self.directory, self.kept()) from error

    def _states(self) -> dict[int, str]:
        """{completed epochs: path}."""
        found = {}
        for path in self._files():
            match = _STATE.fullmatch(os.path.basename(path))
            if match:
                found[int(match[1])] = path
        return found

    def _files(self) -> list[str]:
        return glob.glob(os.path.join(glob.escape(self.directory), f"*{_SUFFIX}"))
