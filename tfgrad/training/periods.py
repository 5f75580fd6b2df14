"""Which penalties a step computes, and steps that are compiled for some of them only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.penalties.base import Penalty

# Each different `every` may double the number of ways in which a step is compiled.
MOST = 3


class Periods:
    """The penalties that are due at a training step: those whose `every` divides its number.

    Attributes:
        cases: The sets of penalties that are due together at some step; at first, all.

    Args:
        penalties: All penalties.

    Raises:
        ArgumentError: They have more than `MOST` different values of `every` above 1.
    """

    def __init__(self, penalties: Sequence[Penalty]) -> None:
        self._lengths = sorted({p.every for p in penalties if p.every > 1})
        if len(self._lengths) > MOST:
            raise ArgumentError(
                f"every: got the {len(self._lengths)} values {self._lengths}; expected at most "
                f"{MOST} different ones above 1, because the step is compiled for each "
                "combination; try the same for several penalties."
            )
        self.cases: list[list[Penalty]] = []
        self._case_of_pattern: list[int] = []
        for waiting in itertools.product([False, True], repeat=len(self._lengths)):
            lengths = dict(zip(self._lengths, waiting, strict=True))
            together = math.lcm(*(k for k, waits in lengths.items() if not waits))
            self._case_of_pattern.append(len(self.cases))
            if all(together % k for k, waits in lengths.items() if waits):
                self.cases.append([p for p in penalties if not lengths.get(p.every, False)])

    def __bool__(self) -> bool:
        """Whether any penalty is left out of some steps."""
        return bool(self._lengths)

    def case(self, step: tf.Tensor) -> tf.Tensor:
        """Index into `cases` at a step, an int32 scalar."""
        pattern = tf.zeros([], tf.int32)
        for k in self._lengths:
            pattern = 2 * pattern + tf.cast(~is_due(k, step), tf.int32)
        return tf.gather(tf.constant(self._case_of_pattern, tf.int32), pattern)


def is_due(every: int, step: tf.Tensor) -> tf.Tensor:
    """Whether the step is one of those at which a penalty is computed, a bool scalar."""
    return tf.equal(step % tf.cast(every, step.dtype), 0)


def switched(index: tf.Tensor, cases: Sequence[Callable[[], tuple[list[Any], Any]]]) -> Any:
    """The result of one case, of which alone the operations run.

    Args:
        index: Which, an int32 scalar.
        cases: Functions that return (gradients, nest of tensors). A gradient is a tensor, slices of
            one, or None; the first case has one wherever another has.

    Returns:
        (gradients, nest) of that case. A gradient that only the first case has is 0 in others.
    """
    if tf.executing_eagerly():
        return cases[int(index)]()
    like = list[Any]()  # not annotated, which AutoGraph cannot convert

    def branch(case: Callable[[], tuple[list[Any], Any]]) -> Any:
        gradients, nest = case()
        if not like:
            like.extend(gradients)
        pairs = zip(gradients, like, strict=True)
        return [_alike(g, first) for g, first in pairs if first is not None], nest

    found, nest = tf.switch_case(index, [lambda case=case: branch(case) for case in cases])
    remaining = iter(found)
    return [None if first is None else next(remaining) for first in like], nest


def _alike(gradient: Any, first: Any) -> Any:
    """A gradient in the form of the first case's: dense, or slices."""
    if isinstance(first, tf.IndexedSlices):
        if gradient is not None:
            return gradient
        # Tensors of the first case have no meaning in another; their shapes are known.
        values = tf.zeros([0, *first.values.shape[1:]], first.dtype)
        shape = first.dense_shape
        if shape is not None:
            shape = tf.constant(first.shape.as_list(), shape.dtype)
        return tf.IndexedSlices(values, tf.zeros([0], first.indices.dtype), shape)
    return (
        tf.zeros(first.shape, first.dtype) if gradient is None else tf.convert_to_tensor(gradient)
    )
