"""Whether a function of the user's is a scalar of each example's outputs, and of nothing else.

A function is checked once for each form of the outputs: what it is made of, in a trace, and whether
it mixes the examples, on random numbers in the place of outputs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.second_order.operations import PYTHON, STATE, STATEFUL_RANDOM

# By function: the forms of outputs with which it passed.
_passed: weakref.WeakKeyDictionary[Any, set[Any]] = weakref.WeakKeyDictionary()
# Larger outputs are not tried for mixed examples.
_TRIED = 2**20
# `tf.py_function`, too: it is differentiated once, and a gradient of its gradient is dropped.
_PYTHON = PYTHON | {"EagerPyFunc"}


def check(target: Any, function: Callable[[Any], Any], outputs: Any) -> None:
    """Refuse a function whose value is not one and the same number of an example's outputs.

    Args:
        target: The target, for messages.
        function: A function from outputs to floats [batch].
        outputs: The nest of outputs.

    Raises:
        ArgumentError: It draws random numbers, keeps state, calls Python or mixes the examples.
    """
    form = tuple((tuple(t.shape[1:]), t.dtype) for t in tf.nest.flatten(outputs))
    try:
        passed = _passed.setdefault(function, set())
    except TypeError:  # no weak reference, or no hash
        passed = set()
    key = (form, type(outputs).__name__)
    if key in passed:
        return
    specs = tf.nest.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), outputs)
    traced, alone = _traced(function, specs)
    _check_operations(target, traced)
    if alone and _mixes(traced, specs):
        raise ArgumentError(
            f"target: {target!r} mixes the examples of a batch: its value for one changes with the "
            "outputs of another; expected a function of each example's own outputs; try reductions "
            "over all axes but the first."
        )
    passed.add(key)


def _traced(function: Callable[[Any], Any], specs: Any) -> tuple[Any, bool]:
    """A trace of the function, and whether it can be called on its own."""
    seeds: list[Any] = []

    def call(outputs: Any) -> Any:
        # Keras's seed generators move without an operation in a scope of a caller.
        with keras.StatelessScope() as scope:
            found = function(outputs)
        seeds.extend(scope.state_mapping)
        return found

    def trace() -> Any:
        traced = tf.function(call, autograph=False).get_concrete_function(specs)
        return traced

    try:
        with tf.init_scope():
            traced, alone = trace(), tf.executing_eagerly()
    except (TypeError, ValueError, tf.errors.OpError):
        # It reads a tensor of the graph in which it is used; or it fails there, too.
        seeds.clear()
        traced, alone = trace(), False
    traced.moves_seeds = bool(seeds)
    return traced, alone


def _check_operations(target: Any, traced: Any) -> None:
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    found = [n.op for n in nodes if STATEFUL_RANDOM.fullmatch(n.op) or STATE.fullmatch(n.op)]
    if found or traced.moves_seeds:
        what = f" ({found[0]})" if found else ", by a keras.random.SeedGenerator or a variable"
        raise ArgumentError(
            f"target: {target!r} draws random numbers or keeps state{what}, so that its gradient "
            "is another one at every call; expected a function of the outputs alone."
        )
    for node in nodes:
        if node.op in _PYTHON:
            raise ArgumentError(
                f"target: {target!r} calls Python ({node.op}), whose second derivative, or first, "
                "TensorFlow drops in silence; expected TensorFlow or Keras operations."
            )


def _mixes(traced: Any, specs: Any) -> bool:
    """Whether the value of one of two examples changes with the outputs of the other."""
    flat = tf.nest.flatten(specs)
    shapes = [[2, *(3 if n is None else n for n in s.shape[1:])] for s in flat]
    if sum(int(np.prod(shape)) for shape in shapes) > _TRIED:
        return False
    generator = np.random.default_rng(0)

    def draws() -> list[np.ndarray]:
        pairs = zip(shapes, flat, strict=True)
        return [
            generator.normal(size=shape) if s.dtype.is_floating else np.zeros(shape)
            for shape, s in pairs
        ]

    def value(first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
        rows = [np.stack([a[0], b[1]]) for a, b in zip(first, second, strict=True)]
        tensors = [tf.cast(row, s.dtype) for row, s in zip(rows, flat, strict=True)]
        return np.asarray(traced(tf.nest.pack_sequence_as(specs, tensors)), "float64")

    a, b = draws(), draws()
    try:
        with tf.init_scope(), tf.device("CPU:0"):
            both, other_second, other_first = value(a, a), value(a, b), value(b, a)
    except (TypeError, ValueError, tf.errors.OpError):
        return False  # made for a batch of another size, or for outputs of another kind
    if both.shape != (2,):
        return False
    pairs = ((both[0], other_second[0]), (both[1], other_first[1]))
    return any(
        np.isfinite([x, y]).all() and abs(x - y) > 1e-3 * max(abs(x), abs(y)) for x, y in pairs
    )
