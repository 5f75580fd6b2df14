"""The progress of training: a record of every epoch, and the time left."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import keras

from tfgrad.internal import files, live_line, ownership, regular_files
from tfgrad.internal.arguments import integer

_COMPILING = "compiling the first step …"


class JsonLines(keras.callbacks.Callback):
    """Appends the metrics of every epoch to a file, one JSON object per line.

    During `fit` the file has one writer, as the directory of `Backup`: the workers of one run may
    share it, another process raises.

    Args:
        path: The file; lines of epochs that will be repeated are dropped when training starts.
        first_epoch: Number of epochs completed before.

    Raises:
        WriteError: From `fit`: the file cannot be written.
        InUseError: From `fit`: another process is writing to it.
    """

    def __init__(self, path: str | os.PathLike[str], first_epoch: int = 0) -> None:
        super().__init__()
        self.path = os.fspath(path)
        self.first_epoch = first_epoch
        self._owns = True

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keep the lines of the completed epochs."""
        with self._writing():
            self._owns = ownership.own(self._lock, "path", self.path)
            if self._owns:
                kept = [r for r in read_json_lines(self.path) if r["epoch"] <= self.first_epoch]
                files.write_text(self.path, "".join(json.dumps(r) + "\n" for r in kept))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Let go of the file."""
        if self._owns:
            ownership.release(self._lock)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the line."""
        seconds = time.perf_counter() - self._start
        record = {"epoch": epoch + 1, "seconds": round(seconds, 3)}
        record.update({k: float(v) for k, v in (logs or {}).items()})
        if self._owns:
            with self._writing(), open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    @property
    def _lock(self) -> str:
        return f"{self.path}.lock"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with files.naming(self.path):
                yield
        except OSError as error:
            raise files.cannot_write(error, "path", self.path) from error


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a `JsonLines` file, without a last line that an interruption cut short.

    Raises:
        OSError: It is there and cannot be read, or is no regular file.
    """
    records = []
    if os.path.exists(path):
        with regular_files.opened(path) as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    records.append(regular_files.parse_json(line))
    return [record for record in records if isinstance(record, dict) and "epoch" in record]


class TimeLeft(keras.callbacks.Callback):
    """Prints one line per epoch: metrics, seconds, throughput, and the time left for the whole run.

    In a terminal a live line below shows the running epoch: steps, throughput, time left, and all
    metrics so far, those of penalties among them. That takes rich (`pip install 'tfgrad[apps]'`);
    pipes, files and notebooks receive the lines of the epochs alone, and one before the first step,
    which traces and compiles the training step. The time left and the throughput leave that step
    out, as the time left does the first step of validation; the seconds of the epoch include both.

    Args:
        epochs: Number of epochs of the whole run.
        examples: Number of training examples of an epoch, for the throughput in examples per
            second, without validation; None leaves it out.
        live: Whether there is a live line; None: in a terminal.
    """

    def __init__(self, epochs: int, examples: int | None = None, live: bool | None = None) -> None:
        super().__init__()
        self.epochs = epochs
        self.examples = None if examples is None else integer("examples", examples)
        self.live = live
        self._line: live_line.LiveLine | None = None
        self._seconds: list[float] = []
        self._trained: float | None = None  # seconds of this epoch's steps
        self._steps = 0  # of this epoch
        self._compiled = self._tested = False  # whether the first step is done, and of validation
        self._compiling = 0.0  # seconds of this epoch's steps that no later epoch takes
        self._extra = 0.0  # the same of its validation
        self._is_high = False  # whether the last epoch's seconds include them nevertheless

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Open the live line, and say what the first step does."""
        self._seconds, self._compiled, self._tested, self._is_high = [], False, False, False
        self._line = None if self.live is False else live_line.opened()
        if self._line is not None:
            self._line.show(_COMPILING, 0, None, "")
        else:
            print(_COMPILING, flush=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remove the live line."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._epoch, self._trained, self._steps = epoch, None, 0
        self._compiling = self._extra = 0.0
        self._start = time.perf_counter()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the clock of the first step of validation."""
        if not self._tested:
            self._test_start = time.perf_counter()

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop it."""
        if not self._tested:
            self._tested, self._extra = True, time.perf_counter() - self._test_start

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Draw the live line."""
        self._trained, self._steps = time.perf_counter() - self._start, batch + 1
        if not self._compiled:
            self._compiled, self._compiling = True, self._trained
        if self._line is None:
            return
        done, count = batch + 1, self.params.get("steps")
        parts = [f"{done} of {count} steps" if count else f"{done} steps"]
        each = self._seconds_of_step()
        if count and each is not None:
            if self.examples is not None:
                parts.append(_rate(self.examples / count, each))
            later = self.epochs - self._epoch - 1
            whole = sum(self._seconds) / len(self._seconds) if self._seconds else count * each
            parts.append(f"{_clock((count - done) * each + later * whole)} left")
        title = f"epoch {self._epoch + 1}/{self.epochs}"
        self._line.show(title, done, count, "  ".join(parts), _metrics(logs))

    def _seconds_of_step(self) -> float | None:
        """The mean of this epoch's steps; None where there is only the one that was compiled."""
        counted = self._steps - bool(self._compiling)
        if self._trained is None or not counted:
            return None
        return (self._trained - self._compiling) / counted

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Print the line; the time left is estimated from the mean of the last five epochs."""
        seconds = time.perf_counter() - self._start
        each = self._seconds_of_step()
        usual = seconds - self._extra
        if self._compiling and each is not None:
            usual += each - self._compiling
        if self._is_high:  # an epoch of one step, which was compiled
            self._seconds = []
        self._is_high = bool(self._compiling) and each is None
        self._seconds = [*self._seconds[-4:], usual]
        left = (self.epochs - epoch - 1) * sum(self._seconds) / len(self._seconds)
        parts = [f"{seconds:.1f} s"]
        if self.examples is not None:
            trained = self._trained or seconds
            parts.append(_rate(self.examples, trained if each is None else each * self._steps))
        parts.append(f"{_clock(left)} left")
        print(f"epoch {epoch + 1}/{self.epochs}  {_metrics(logs)}  {', '.join(parts)}", flush=True)


def _metrics(logs: dict[str, Any] | None) -> str:
    return "  ".join(f"{k} {v:.4g}" for k, v in (logs or {}).items())


def _rate(examples: float, seconds: float) -> str:
    rate = examples / max(seconds, 1e-9)
    return f"{rate:,.0f} examples/s" if rate >= 10 else f"{rate:.2g} examples/s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
