"""The logs of every epoch, for the record of a cell."""

from typing import Any

import keras
import numpy as np

from tfgrad.errors import NonFiniteError


class EpochLogs(keras.callbacks.Callback):
    """Keeps the logs of every epoch, and stops a training whose loss is not finite.

    Raises:
        NonFiniteError: The loss of an epoch is not finite.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[dict[str, Any]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the logs, in which numbers that are not finite become None, and check the loss."""
        values = {name: float(f"{float(value):.6g}") for name, value in (logs or {}).items()}
        broken = [name for name, value in values.items() if not np.isfinite(value)]
        kept = {name: None if name in broken else value for name, value in values.items()}
        self.epochs.append({"epoch": epoch + 1, **kept})
        if "loss" in broken:
            raise NonFiniteError(f"not finite after epoch {epoch + 1}: {', '.join(broken)}")

    def record(self) -> dict[str, Any]:
        """The logs of all epochs, and those of the last one."""
        return {"final": self.epochs[-1] if self.epochs else {}, "epochs": self.epochs}
