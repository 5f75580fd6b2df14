"""A scope in which a Keras model can be called without changing anything in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from tfgrad.internal.function_copies import copied_functions


@contextlib.contextmanager
def unchanged_state(
    state: Sequence[tuple[keras.Variable, tf.Tensor]] = (),
) -> Iterator[keras.StatelessScope]:
    """A `keras.StatelessScope` that also leaves a network's own `tf.function`s alone.

    Running statistics, random seeds and losses that a call would change stay as they are. A trace
    of a `tf.function` made in the scope is not kept: it contains no updates of state, and Keras's
    later calls would use it.

    Args:
        state: Values that variables have in the scope, as (variable, value) pairs.
    """
    scope = keras.StatelessScope(state, collect_losses=True)
    with scope, copied_functions():
        yield scope
