"""Maps that are 0 everywhere, and why they may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# What methods say of themselves, `Method.zero_map`.
UNCHANGED = (
    "the score does not change with the input there, as where all ReLUs are inactive or the output "
    "is saturated, or the method multiplies by an input that is 0 or is its baseline"
)
CUT_OFF = (
    "negative values are left out and none is positive there, as where the class is only argued "
    "against, or all ReLUs are inactive; fullgrad shows both signs"
)
NO_BIASES = "the network adds no constants there, such as biases, or the score does not use them"
_NAMED = 5  # examples in a sentence


def zero_everywhere(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Whether all maps of an example are 0 everywhere, [B] bool.

    Args:
        maps: The maps of each input, [B, …].
    """
    found = [~np.any(one.reshape(len(one), -1), axis=1) for one in maps]
    return np.asarray(np.all(found, axis=0))


def sentence(method: str, examples: Sequence[Any], reason: str) -> str:
    """What to say of maps that are 0 everywhere; "" where there is none.

    Args:
        method: The name of the method.
        examples: The names or numbers of the examples.
        reason: Why a map of the method may be 0 everywhere.
    """
    if not examples:
        return ""
    shown = ", ".join(map(str, examples[:_NAMED]))
    rest = f" and {len(examples) - _NAMED} more" if len(examples) > _NAMED else ""
    return f"{method} is 0 everywhere for {shown}{rest}: {reason}."
