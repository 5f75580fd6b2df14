"""The one form of every error about a model file, and what several checks need."""

from __future__ import annotations

import json
from typing import Any

from tfgrad.errors import ModelError

MAX_JSON_BYTES = 64 << 20

WHOLE = "an undamaged one"
DAMAGED = "copy or export it again, and compare the sizes"
FINITE = "finite weights"
DIVERGED = "its training diverged: load an earlier checkpoint, or train with a lower learning rate"


def rejection(path: str, got: str, expected: str, advice: str) -> ModelError:
    """The error that rejects a model file.

    Args:
        path: The file or directory.
        got: What was found there.
        expected: What should have been there.
        advice: What to try, as an imperative.
    """
    return ModelError(
        f"path: {path!r} cannot be loaded: got {got}; expected {expected}. Try: {advice}."
    )


def brief(error: Exception) -> str:
    """The class of an error and the start of its message: Keras appends the whole config."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{'…' if len(text) > 300 else ''}"


def read_json(path: str, name: str, text: bytes) -> dict[str, Any]:
    """A JSON object.

    Args:
        path: The model file or directory, for the error.
        name: The name of the JSON file in it.
        text: The content of the JSON file.

    Raises:
        ModelError: The text is no JSON object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise rejection(
            path, f"a {name} that is not JSON ({brief(error)})", "a JSON object", DAMAGED
        ) from error
    if not isinstance(value, dict):
        raise rejection(
            path, f"a {name} that holds a {type(value).__name__}", "a JSON object", DAMAGED
        )
    return value
