"""Sums over the entries of terms, taken in bulk: few operations for each term, the rest for all."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import tensorflow as tf


class TermSums:
    """The sums of terms over each example's entries.

    Args:
        terms: Real tensors [batch, …], at least one.
        score: The scalar that is decomposed, [batch], in whose dtype they are added.

    Attributes:
        each: Σ of all entries of each term, [terms, batch].
        total: Σ of all entries of all terms, [batch].
        largest: Σ over the terms of abs(the term's own sum), [batch].
    """

    def __init__(self, terms: Sequence[tf.Tensor], score: tf.Tensor) -> None:
        self._score, self._axes = score, Axes()
        self._given = list(terms)  # kept alive, so that their ids stay their own
        self._terms = [tf.cast(t, score.dtype) for t in terms]
        self.each = tf.stack([self._of_examples(t) for t in self._terms])
        self.total = tf.reduce_sum(self.each, 0)
        self.largest = tf.reduce_sum(tf.abs(self.each), 0)

    @functools.cached_property
    def size(self) -> tf.Tensor:
        """Σ of abs of all entries of all terms, [batch]; rounding is relative to it."""
        groups: dict[object, list[tf.Tensor]] = {}
        for number, (_, summed) in enumerate(self._absolute):
            key = tuple(summed.shape[1:]) if summed.shape.rank else (None,)
            groups.setdefault(number if None in key else key, []).append(summed)
        return tf.add_n([self._of_examples(_added(group)) for group in groups.values()])

    def error(self) -> tf.Tensor:
        """abs(score − total) / max(abs(score), 1e-6), [batch]."""
        return tf.abs(self._score - self.total) / tf.maximum(tf.abs(self._score), 1e-6)

    def absolute(self) -> dict[int, tuple[tf.Tensor, tf.Tensor]]:
        """{id of a term: (abs of its entries, their sum over the last axis)}.

        The sum is over the last axis of tensors with more than two axes. Terms of another dtype
        than the score's are left out.
        """
        pairs = zip(self._given, self._terms, self._absolute, strict=True)
        return {id(given): found for given, term, found in pairs if given is term}

    @functools.cached_property
    def _absolute(self) -> list[tuple[tf.Tensor, tf.Tensor]]:
        found = [tf.abs(t) for t in self._terms]
        last = self._axes.last()
        return [(t, tf.reduce_sum(t, last) if (t.shape.rank or 0) > 2 else t) for t in found]

    def _of_examples(self, term: tf.Tensor) -> tf.Tensor:
        """The sum over each example's entries, [batch]."""
        if term.shape.rank is None:
            found = tf.reduce_sum(tf.reshape(term, [tf.shape(term)[0], -1]), 1)
        elif term.shape.rank > 1:
            found = tf.reduce_sum(term, self._axes.after(1, term))
        else:
            found = term
        # One example's term in a batch of several adds up to no score, which is for `adds_up`.
        return found + tf.zeros_like(self._score) if found.shape[:1] == [1] else found


class Axes:
    """The axes of reductions as tensors, of which a graph gets one for each range of axes."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], tf.Tensor] = {}

    def after(self, first: int, tensor: tf.Tensor) -> tf.Tensor:
        """The axes of a tensor of known rank from the axis `first` on, int32."""
        return self._range(first, tensor.shape.rank)

    def last(self) -> tf.Tensor:
        """The last axis of any tensor."""
        return self._range(-1, 0)

    def _range(self, *key: int) -> tf.Tensor:
        if key not in self._made:
            self._made[key] = tf.constant(list(range(*key)), tf.int32)
        return self._made[key]


def _added(group: list[tf.Tensor]) -> tf.Tensor:
    return group[0] if len(group) == 1 else tf.add_n(group)
