"""Checks of options that rooms share; each names the argument that it refuses."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Collection
from typing import Any

from tfgrad.errors import ArgumentError


def whole(name: str, value: Any, lowest: int = 1) -> int:
    """The int, at least `lowest`.

    Raises:
        ArgumentError: it is none, or below that.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < lowest:
        raise ArgumentError(f"{name}: got {value!r}; expected a whole number from {lowest} up.")
    return int(value)


def number(name: str, value: Any, zero: bool = False) -> float:
    """The finite float above 0, or from 0 up where `zero` is allowed.

    Raises:
        ArgumentError: it is none.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        expected = "from 0 up" if zero else "above 0"
        raise ArgumentError(f"{name}: got {value!r}; expected a finite number {expected}.")
    return float(value)


def one_of(name: str, value: Any, choices: Collection[str]) -> str:
    """The value, if it is one of the choices.

    Raises:
        ArgumentError: it is none of them; the message lists them, the likeliest first.
    """
    if not isinstance(value, str) or value not in choices:
        known = ", ".join(map(repr, choices))
        raise ArgumentError(f"{name}: got {value!r}; {suggestion(value, choices)}{known}.")
    return value


def suggestion(value: Any, choices: Collection[str]) -> str:
    """The words that introduce a list of choices, with the likeliest one first."""
    close = difflib.get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    return f"did you mean {close[0]!r}? Expected one of " if close else "expected one of "
