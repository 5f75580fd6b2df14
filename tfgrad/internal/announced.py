"""The parts of a long call, announced to whoever listens; commands print them.

A call announces each part before it begins it. Without a listener nothing happens, so that no
function of the library needs an argument for it.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

Value = TypeVar("Value")

_listener: contextvars.ContextVar[Callable[[str], object] | None] = contextvars.ContextVar(
    "listener", default=None
)


@contextlib.contextmanager
def to(listener: Callable[[str], object]) -> Iterator[None]:
    """Within the context, and in its thread, parts are announced to a function of their texts."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def part(text: str) -> None:
    """Announce a part that begins, such as "writing the SavedModel"."""
    if (listener := _listener.get()) is not None:
        listener(text)


def each(what: str, parts: Mapping[str, Value]) -> Iterator[tuple[str, Value]]:
    """The (name, value) pairs, each announced as "WHAT NAME (1 of 3)" before it is returned."""
    for number, (name, value) in enumerate(parts.items(), 1):
        part(f"{what} {name} ({number} of {len(parts)})")
        yield name, value
