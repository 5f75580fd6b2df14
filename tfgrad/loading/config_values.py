"""Checks of numbers and calls in a config, whose memory and time only the file would bound."""

from __future__ import annotations

import re
from typing import Any

from tfgrad.loading.rejection import DAMAGED, LEAVE, rejection, shown

MAX_CALLS = (
    100_000  # of layers and operations, those of nested models counted at each of their calls
)

# Numbers of which Keras makes lists or loops, in Python, while it builds an object.
_COUNTS = {
    "num_thresholds": 100_000,
    "num_oov_indices": 100_000,
    "num_chains": 1_000,
    "chain_depth": 1_000,
    "num_ops": 1_000,
    "power_iterations": 1_000,
}
_DTYPE = re.compile(r"(bool|string|(u?int|b?float|complex)\d*(_e\dm\d\w*)?|bfloat16)")
# What stands for a tensor among the arguments of a call.
_TENSOR = "__keras_tensor__"


def check_values(path: str, entry: dict[str, Any]) -> None:
    """Check the numbers of one serialised object.

    Args:
        path: The model file, for the error.
        entry: The object, with the names of its class and module checked.

    Raises:
        ModelError: A number is so large that building the object would take gigabytes or hours, or
            an array is of another type than numbers.
    """
    name, config = entry["class_name"], entry.get("config")
    if not isinstance(config, dict):
        return
    for key, most in _COUNTS.items():
        value = config.get(key)
        if isinstance(value, int | float) and not value <= most:
            raise rejection(
                path,
                f"{key}={shown(value)} of {shown(name)}",
                f"at most {most}",
                f"{LEAVE}, or build the model in Python",
            )
    dtype = config.get("dtype")
    if name in ("__numpy__", "__tensor__") and not (
        isinstance(dtype, str) and _DTYPE.fullmatch(dtype)
    ):
        got = f"a constant of type {shown(dtype)}"
        raise rejection(path, got, "one of numbers", DAMAGED)


def check_calls(path: str, config: dict[str, Any]) -> None:
    """Check the calls that a graph of layers declares.

    Raises:
        ModelError: There are too many, with those of nested models, or one has no tensor among its
            arguments, so that it would run at once.
    """
    try:
        count = _calls(path, config)
    except RecursionError as error:
        raise rejection(path, "a config nested too deeply", "models in models", DAMAGED) from error
    if count > MAX_CALLS:
        raise rejection(
            path,
            f"a config that declares {shown(count)} calls of layers",
            f"at most {MAX_CALLS}",
            f"{LEAVE}: building such a model would take hours",
        )


def _calls(path: str, entry: Any) -> int:
    """How many calls of layers and operations building an object makes."""
    config = entry.get("config") if isinstance(entry, dict) else None
    if not isinstance(config, dict):
        return 0
    total = 0
    for value in config.values():
        for inner in value if isinstance(value, list) else (value,):
            if not isinstance(inner, dict) or "class_name" not in inner:
                continue
            nodes = inner.get("inbound_nodes")
            nodes = nodes if isinstance(nodes, list) else []
            for node in nodes:
                if isinstance(node, dict) and not _has_tensor(node):
                    raise rejection(
                        path,
                        f"a call of {shown(inner['class_name'])} without a tensor",
                        "calls of tensors",
                        DAMAGED,
                    )
            total += max(1, len(nodes)) * (1 + _calls(path, inner))
    return total


def _has_tensor(value: Any) -> bool:
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if value.get("class_name") == _TENSOR:
                return True
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return False
