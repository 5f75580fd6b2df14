"""`ExportEachEpoch`: a servable version of the model after every epoch."""

from __future__ import annotations

import inspect
import os
import uuid
from collections.abc import Sequence
from typing import Any

import keras

from tfgrad import distribution, saliency
from tfgrad.callbacks.explanations import is_finite
from tfgrad.errors import ArgumentError
from tfgrad.evaluation.digests import weights_digest
from tfgrad.export import checks, saved_model, versions
from tfgrad.export.portable import writing
from tfgrad.internal import files, regular_files
from tfgrad.internal.arguments import integer
from tfgrad.internal.served_files import METADATA
from tfgrad.internal.wrapper import Wrapper

# What `tfgrad.export.save` takes and this callback does not pass on.
_OWN = ("model", "directory", "methods", "version", "training")


class ExportEachEpoch(keras.callbacks.Callback):
    """Exports the model after every `every`-th epoch and after the last, see `tfgrad.export.save`.

    The number of a version is that of completed epochs, or the next one above all that exist, as
    TensorFlow Serving serves the highest. A version appears complete or not at all; a run that is
    killed leaves at most a folder `.tmp-…`, which Serving ignores. The metadata of a version,
    `tfgrad.json`, hold the epoch.

    A resumed run that repeats an epoch does not write it again: a version of the same epoch with
    the same weights stays. After an epoch whose loss or weights are not finite nothing is written.

    Every version traces its signatures anew. Weights, optimizer and random state of the training do
    not change. Of several workers the first one writes.

    Args:
        directory: The model's directory; created if absent.
        methods: The explanations to serve, see `tfgrad.export.save`.
        every: Epochs between two versions, an integer ≥ 1.
        keep: So many of the versions that this run wrote are kept, the latest ones; None keeps all.
            A run that resumes counts as one. Versions that others wrote always stay.
        **options: Further arguments of `tfgrad.export.save`, such as `image_range` and `classes`.

    Raises:
        ArgumentError: An argument is wrong; from `fit` also for what `tfgrad.export.save` raises.
        ModelError: From `fit`: the model cannot be exported.
        WriteError: From `fit`: a version cannot be written or removed.

    Example:

    ```python
    export = tfgrad.callbacks.ExportEachEpoch("saved_models/mine", image_range=(0, 1), keep=3)
    model.fit(x, y, epochs=20, callbacks=[export])
    ```
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        methods: Sequence[str | saliency.Method] | None = None,
        every: int = 1,
        keep: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        known = [n for n in inspect.signature(saved_model.save).parameters if n not in _OWN]
        if unknown := [name for name in options if name not in known]:
            raise ArgumentError(
                f"options: got {unknown}; expected arguments of tfgrad.export.save, {known}."
            )
        if methods is not None:
            checks.check_methods(methods)
        if "formats" in options:
            writing.check(options["formats"], options.get("batch_size", 1))
        self.directory, self.methods, self.options = os.fspath(directory), methods, options
        self.every = integer("every", every)
        self.keep = None if keep is None else integer("keep", keep)
        self._run: str | None = None
        self._writes = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find out whether this process writes."""
        self._writes = distribution.is_chief(self.model.distribute_strategy)
        self._run = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Name the run, before its first epoch: the one that a resumed run continues has a name."""
        if self._writes and self._run is None:
            known = map(_training, versions.existing(self.directory).values())
            runs = [one["run"] for one in known if "run" in one]
            self._run = runs[-1] if epoch > 0 and runs else uuid.uuid4().hex

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the version of this epoch, then remove those that are too old."""
        last = epoch + 1 == self.params.get("epochs")
        due = (epoch + 1) % self.every == 0 or last
        if not due or not self._writes or not is_finite(self.model, logs):
            return
        network = self.model.network if isinstance(self.model, Wrapper) else self.model
        training = {"epoch": epoch + 1, "weights": weights_digest(network), "run": self._run}
        known = {p: _training(p) for p in versions.existing(self.directory).values()}
        alike = [one for one in known.values() if _is_alike(one, training)]
        if alike:  # also of a run that was killed before its first epoch was saved
            self._run = alike[-1].get("run", self._run)
        else:
            path = saved_model.save(
                self.model,
                self.directory,
                self.methods,
                **self.options,
                version=epoch + 1,
                training=training,
            )
            known[path] = training
        if self.keep is not None:
            own = [path for path, one in known.items() if one.get("run") == self._run]
            for path in own[: -self.keep]:
                try:
                    versions.withdraw(path)
                except OSError as error:
                    raise files.cannot_write(error, "directory", path) from error


def _training(path: str) -> dict[str, Any]:
    """What the metadata of a version tell of its training; {} for other versions."""
    try:
        found = regular_files.read_json(os.path.join(path, METADATA))
    except (OSError, ValueError):
        return {}
    told = found.get("training") if isinstance(found, dict) else None
    return told if isinstance(told, dict) else {}


def _is_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(key) == other[key] for key in ("epoch", "weights"))
