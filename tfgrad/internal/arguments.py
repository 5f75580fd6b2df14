"""Checks of arguments; each error names the argument, its value and what was expected."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Collection
from typing import Any

from tfgrad.errors import ArgumentError


def is_integer(value: object) -> bool:
    """Whether a value is an integer of Python or NumPy; True and False are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def integer(name: str, value: Any, lowest: int = 1) -> int:
    """The value as an int ≥ `lowest`.

    Raises:
        ArgumentError: The value is no integer, or is below `lowest`.
    """
    if not is_integer(value) or value < lowest:
        raise ArgumentError(f"{name}: got {value!r}; expected an integer ≥ {lowest}.")
    return int(value)


def number(name: str, value: Any, zero: bool = False) -> float:
    """The value as a finite float > 0, or ≥ 0 if `zero` is allowed.

    Raises:
        ArgumentError: The value is no such number.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        expected = "from 0 up" if zero else "above 0"
        raise ArgumentError(f"{name}: got {value!r}; expected a finite number {expected}.")
    return float(value)


def one_of(name: str, value: Any, choices: Collection[str]) -> str:
    """The value, which must be one of the choices.

    Raises:
        ArgumentError: It is none of them. The message lists them and suggests the most similar.
    """
    if not isinstance(value, str) or value not in choices:
        known = ", ".join(map(repr, choices))
        raise ArgumentError(f"{name}: got {value!r}; {suggestion(value, choices)}{known}.")
    return value


def suggestion(value: Any, choices: Collection[str]) -> str:
    """The words that introduce a list of choices in a message; they suggest the most similar."""
    close = difflib.get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    return f"did you mean {close[0]!r}? Expected one of " if close else "expected one of "
