"""What a command has recorded of a trained network, as a JSON file beside it tells."""

import math
from collections.abc import Mapping
from typing import Any

from tfgrad.errors import ModelError


def checked(path: str, record: Any) -> Mapping[str, Any]:
    """The record of a network, whose entries are of the types that commands write.

    Args:
        path: The network's file or directory, for the error.
        record: What was read; anything but a JSON object tells nothing.

    Raises:
        ModelError: An entry is of another type.
    """
    if not isinstance(record, Mapping):
        return {}
    for name, (is_right, words) in _ENTRIES.items():
        value = record.get(name)
        if value is not None and not is_right(value):
            raise ModelError(
                f"{path}: got {name}={str(value)[:80]!r} in the record beside it; expected "
                f"{words}. Try without the record, or train again."
            )
    return record


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _statistics(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2
    return pair and all(_number(v) or (isinstance(v, list) and all(map(_number, v))) for v in value)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


_ENTRIES = {
    "normalize": (_statistics, "the mean and the standard deviation of each channel"),
    "classes": (_names, "a list of names"),
    "test": (lambda value: isinstance(value, Mapping), "an object of results"),
    "accuracy": (_number, "a number"),
}
