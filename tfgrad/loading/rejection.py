"""The one form of every error about a model file, and what several checks need."""

from __future__ import annotations

import os
import re
from typing import Any

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.internal import regular_files
from tfgrad.internal.arguments import integer

# The default of `limit_bytes`: what one model may take on disk, unpacked.
LIMIT_BYTES = 8 << 30

WHOLE = "an undamaged one"
DAMAGED = "copy or export it again, and compare the sizes"
LEAVE = "do not open it"
FINITE = "finite weights"
DIVERGED = "its training diverged: load an earlier checkpoint, or train with a lower learning rate"

# Colours of a terminal, other control characters, and halves of surrogate pairs.
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;]*m|[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


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


def too_large(path: str, got: str, limit_bytes: int) -> ModelError:
    """The error that rejects a model of more bytes than the caller allows."""
    return rejection(
        path,
        got,
        f"at most {limit_bytes / 2**30:.3g} GiB",
        f"{LEAVE}, or raise limit_bytes= if you know who made it",
    )


def limit(limit_bytes: Any) -> int:
    """The argument `limit_bytes` as an int ≥ 1.

    Raises:
        ArgumentError: It is none.
    """
    return integer("limit_bytes", limit_bytes)


def path_argument(path: Any) -> str:
    """The argument `path` as a string.

    Raises:
        ArgumentError: It is no path.
    """
    try:
        return os.fsdecode(path)
    except TypeError as error:
        raise ArgumentError(
            f"path: got {shown(path)}; expected a string or os.PathLike, the path of a saved "
            "model. Try: give the path, not an open file or a model."
        ) from error


def brief(error: Exception) -> str:
    """The class of an error and the start of its message, without the config that Keras repeats."""
    text = _UNPRINTABLE.sub(" ", str(error)).rpartition("Exception encountered: ")[2]
    text = " ".join(text.split())
    return f"{type(error).__name__}: {text[:300]}{'…' if len(text) > 300 else ''}"


def shown(value: Any) -> str:
    """A value that a file chose, as a message quotes it: cut, and without what it cannot print."""
    text = ascii(value) if not isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "backslashreplace").decode()  # halves of surrogate pairs
    return text if len(text) <= 120 else f"{text[:120]}…"


def read_json(path: str, name: str, text: bytes) -> dict[str, Any]:
    """A JSON object.

    Args:
        path: The model file or directory, for the error.
        name: The name of the JSON file in it.
        text: The content of the JSON file.

    Raises:
        ModelError: The text is no JSON object, too large, or names a key twice.
    """
    try:
        value = regular_files.parse_json(text)
    except ValueError as error:
        raise rejection(
            path, f"a {name} that is not JSON ({brief(error)})", "a JSON object", DAMAGED
        ) from error
    if not isinstance(value, dict):
        raise rejection(
            path, f"a {name} that holds a {type(value).__name__}", "a JSON object", DAMAGED
        )
    return value
