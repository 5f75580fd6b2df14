"""The loss that a saved model was compiled with, by name: it tells what the outputs mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def saved_loss(compiled: Any) -> Any:
    """The names of Keras's losses that a file was compiled with, in their structure.

    Args:
        compiled: The arguments of `compile` that the file holds, or None.

    Returns:
        A name, a list or {head: name}, None for a loss of someone else; None if there is none.
    """
    return _named(compiled.get("loss")) if isinstance(compiled, Mapping) else None


def _named(loss: Any) -> Any:
    """The names in a serialised loss."""
    if isinstance(loss, str):
        return loss
    if isinstance(loss, list):
        return [_named(one) for one in loss]
    if not isinstance(loss, Mapping):
        return None
    name = loss.get("class_name")
    if name is None:
        return {head: _named(one) for head, one in loss.items()}
    if loss.get("registered_name") not in (None, name):
        return None
    told = loss.get("config") if name == "function" else name
    return told if isinstance(told, str) else None
