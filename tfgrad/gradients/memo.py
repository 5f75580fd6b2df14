"""Values that are computed once, under keys of one type."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

from tfgrad.gradients.targets import Target

_T = TypeVar("_T")


class Key(NamedTuple):
    """The identity of a remembered value.

    Attributes:
        kind: "gradient", "jacobian", "slope", "asked" or "once"; of a view "head", "teacher",
            "labels" or "mode".
        name: The target, head, mode or caller's name that the value belongs to.
        of: The scalar of a gradient; see `Probe.input_gradient`.
        temperature: The temperature of that scalar.
        row: Whether a gradient is a row of the Jacobian.
    """

    kind: str
    name: Hashable = None
    of: str = "logit"
    temperature: float = 1.0
    row: bool = False


class Memo:
    """A table of values by `Key`."""

    def __init__(self) -> None:
        self._values: dict[Key, Any] = {}

    def get(self, key: Key, compute: Callable[[], _T]) -> _T:
        """The value of the key; the first request computes it."""
        if key not in self._values:
            self._values[key] = compute()
        return self._values[key]


def name_of(target: Any) -> Hashable:
    """A target as part of a key; of a tensor, a reference that keeps it alive."""
    if isinstance(target, Target):
        key: Hashable = target.key
        return key
    return target if isinstance(target, str | int) else target.ref()
