"""`StopOnNonFinite`: an error at the first loss that is NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfgrad.errors import NonFiniteError


class StopOnNonFinite(keras.callbacks.Callback):
    """Raises NonFiniteError at the first batch whose running loss is NaN or infinite.

    Args:
        kept: What the message says of the last good state, or a function that returns it, such as
            `Backup.kept`.
    """

    def __init__(self, kept: str | Callable[[], str] = "the last saved state is untouched") -> None:
        super().__init__()
        self.kept = kept
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the epoch for the message."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Check the loss.

        Raises:
            NonFiniteError: It is NaN or infinite; the message names all metrics that are.
        """
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
