"""A hint where penalties outweigh the rest of the loss."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfgrad.penalties import Penalty

_MOST = 0.5  # share of the loss above which there is a hint
_TRIED = 0.1  # share that the hint's weight has at most


class PenaltyShare(keras.callbacks.Callback):
    """Prints one line after the first epoch if penalties are more than half of the loss.

    The share of a penalty p is λ|p| of Σ λ|p| + |rest|, as some penalties may be negative.

    Args:
        penalties: The penalties, each with the name of the flag that is its weight.
    """

    def __init__(self, penalties: Sequence[Penalty]) -> None:
        super().__init__()
        self.penalties = penalties

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Print the line."""
        if epoch == 0 and (line := hint(self.penalties, logs or {})):
            print(line, flush=True)


def hint(penalties: Sequence[Penalty], logs: Mapping[str, Any]) -> str | None:
    """The line about the largest penalty; None where the penalties are less than half.

    Args:
        penalties: See `PenaltyShare`.
        logs: "loss", and the mean of each penalty by its name.
    """
    found = {one.name: one.weight for one in penalties if one.name in logs}
    parts = {name: weight * abs(float(logs[name])) for name, weight in found.items()}
    rest = abs(float(logs["loss"]) - sum(weight * float(logs[n]) for n, weight in found.items()))
    whole = sum(parts.values()) + rest
    if not math.isfinite(whole) or sum(parts.values()) <= _MOST * whole:
        return None
    name = max(parts, key=lambda one: parts[one])
    value = abs(float(logs[name]))
    others = whole - parts[name]
    said = f"{name}: {found[name]:g} times {value:.2g} is {parts[name] / whole:.0%} of the loss"
    if not others:
        return f"{said}; try a smaller --{name}"
    tried = 10.0 ** math.floor(math.log10(_TRIED / (1 - _TRIED) * others / value))
    share = tried * value / (tried * value + others)
    return f"{said}; --{name}={tried:g} would be {share:.0%}"
