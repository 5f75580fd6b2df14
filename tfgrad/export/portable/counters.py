"""What in a loop depends on the number of its round alone: counters, and tables of such values."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# More rounds than this are not counted.
_ROUNDS = 4096
# A table of more bytes than this is not made.
_TABLE = 2**26

# ("cond" or "body", output, {place in the state: its value}) → the output's value, or None if it
# depends on more than that.
ValueOf = Callable[[str, int, dict[int, Any]], Any]


@dataclasses.dataclass(frozen=True)
class Steps:
    """A value in each round of a loop.

    Attributes:
        values: [rounds, …].
        round_number: The number of the current round in the graph, [] int.
    """

    values: np.ndarray
    round_number: tf.Tensor

    @property
    def shape(self) -> tf.TensorShape:
        """That of one round's value."""
        return tf.TensorShape(self.values.shape[1:])

    @functools.cached_property
    def tensor(self) -> tf.Tensor:
        """The current round's value."""
        return tf.gather(tf.constant(self.values), self.round_number)


def tabulated(
    function: Callable[[list[Any]], Sequence[np.ndarray]], inputs: Sequence[Any]
) -> list[Steps] | None:
    """The outputs of a function of `Steps` and arrays in each round; None if they are too large."""
    steps = [value for value in inputs if isinstance(value, Steps)]
    rounds = []
    for i in range(len(steps[0].values)):
        given = [v.values[i] if isinstance(v, Steps) else v for v in inputs]
        rounds.append(function([np.asarray(value) for value in given]))
        if i == 0 and sum(v.nbytes for v in rounds[0]) * len(steps[0].values) > _TABLE:
            return None
    shapes = [{value.shape for value in each} for each in zip(*rounds, strict=True)]
    if any(len(found) > 1 for found in shapes):
        return None
    return [Steps(np.stack(each), steps[0].round_number) for each in zip(*rounds, strict=True)]


def found_in(
    inputs: Sequence[Any], moving: Sequence[int], value_of: ValueOf
) -> dict[int, np.ndarray]:
    """{place in a loop's state: its value in each round} of integers that grow in equal steps.

    None are found in loops whose end does not depend on such a number.
    """
    starts = {
        i: inputs[i]
        for i in moving
        if isinstance(inputs[i], np.ndarray) and not inputs[i].shape and inputs[i].dtype.kind == "i"
    }
    counted = (_rounds(i, start, value_of) for i, start in starts.items())
    rounds = next((number for number in counted if number), None)
    if rounds is None:
        return {}
    every = {i: _values(i, start, rounds, value_of) for i, start in starts.items()}
    return {i: v for i, v in every.items() if v is not None and len({*np.diff(v)}) <= 1}


def _rounds(i: int, value: Any, value_of: ValueOf) -> int | None:
    """How often a loop runs that ends by the value of one number."""
    for number in range(_ROUNDS):
        more = value_of("cond", 0, {i: value})
        if more is None or not more:
            return None if more is None else number
        value = value_of("body", i, {i: value})
        if value is None:
            return None
    return None


def _values(i: int, value: Any, rounds: int, value_of: ValueOf) -> np.ndarray | None:
    found = [value]
    for _ in range(rounds):
        value = value_of("body", i, {i: value})
        if value is None:
            return None
        found.append(value)
    return np.asarray(found)
