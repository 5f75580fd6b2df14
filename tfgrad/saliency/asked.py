"""What a method is asked: a class of each example, or a `Target` with its values as tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import targets
from tfgrad.gradients.targets import Target

_CLASS = "class"


def validated(target: Any) -> Any:
    """The target as `tfgrad.gradients.targets` takes it: `"predicted"`, classes, or a `Target`.

    Raises:
        ArgumentError: The target is none of these.
    """
    if isinstance(target, str) and target != "predicted":
        raise ArgumentError(
            f"target: got {target!r}; expected one int, the classes as ints [batch], or None for "
            "the predicted class, as a map explains one class and a method has no labels."
        )
    return targets.validated(target, allow_all=False)


def tensors(target: Any) -> dict[str, tf.Tensor]:
    """What comes with each example of a fixed target: its class, or the target's values."""
    if isinstance(target, Target):
        given = {name: value for name, value in target.values.items() if value is not None}
        return {name: tf.convert_to_tensor(value) for name, value in given.items()}
    return {_CLASS: target}


def with_tensors(target: Any, values: Mapping[str, tf.Tensor]) -> Any:
    """The same target with other tensors in the places of `tensors`."""
    if not isinstance(target, Target):
        return values[_CLASS]
    return target.with_values(values) if values else target


def some(target: Any, start: int, stop: int, batch: int) -> Any:
    """The target of the examples from `start` to `stop` of a batch."""
    if (start, stop) == (0, batch):
        return target
    parts = {
        name: value[start:stop] if value.shape.rank and value.shape[0] == batch else value
        for name, value in tensors(target).items()
    }
    return with_tensors(target, parts)


def in_chunks(run: Callable[[Any, Any], Any], x: Any, target: Any, size: int | None) -> Any:
    """A function's results for parts of a batch, joined along their first axis.

    Args:
        run: A function of inputs and a fixed target.
        x: The inputs.
        target: The fixed target.
        size: Examples in a part, at most; None for all.
    """
    batch = tf.nest.flatten(x)[0].shape[0]
    size = size or batch
    if size >= batch:
        return run(x, target)
    found = []
    for start in range(0, batch, size):
        stop = min(start + size, batch)
        part = tf.nest.map_structure(lambda t, a=start, b=stop: t[a:b], x)
        found.append(run(part, some(target, start, stop, batch)))
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *found)


def check_batch(target: Target, batch: int) -> None:
    """Reject values of a target that are not one for each example.

    Raises:
        ArgumentError: They are not.
    """
    for name, value in tensors(target).items():
        if value.shape.rank and value.shape[0] not in (None, 1, batch):
            raise ArgumentError(
                f"target: got {value.shape[0]} values {name!r} of {target!r} for a batch of "
                f"{batch}; expected one per example."
            )


def key(target: Any) -> Hashable:
    """What two targets have in common whose maps one compiled function computes.

    Their values are arguments of it, so that a new mask is no reason to trace again.
    """
    if not isinstance(target, Target):
        return _CLASS
    if target.key is not target:
        return target.key
    given = tuple(sorted(tensors(target)))
    try:
        blank = target.with_values(dict.fromkeys(given)) if given else target
        return type(target), given, json.dumps(blank.get_config(), sort_keys=True)
    except (ArgumentError, TypeError, ValueError, AttributeError):  # nothing describes it
        return target
