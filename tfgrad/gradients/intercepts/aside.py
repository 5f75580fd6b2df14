"""A trace of a network in which nothing is computed and nothing of the caller is seen."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfgrad.internal.unchanged_state import unchanged_state


def traced_aside(
    network: keras.layers.Layer,
    specs: Any,
    handling: Callable[[], contextlib.AbstractContextManager[Any]],
    training: bool = False,
) -> bool:
    """Trace a network once, with handlers of its calls.

    The caller's graphs, tapes and handlers are local to its thread, so that the trace has a thread
    of its own. It changes no state of the network.

    Args:
        network: The model.
        specs: A nest of `tf.TensorSpec`s of its inputs.
        handling: A function that returns the context of the network's call.
        training: The mode of the call.

    Returns:
        Whether the network could be traced.
    """

    def run(*flat: tf.Tensor) -> Any:
        inputs = tf.nest.pack_sequence_as(specs, flat)
        with handling(), unchanged_state():
            return network(inputs, training=training)

    def trace() -> bool:
        try:
            tf.function(run, autograph=False).get_concrete_function(*tf.nest.flatten(specs))
        except Exception:  # a network of a fixed batch size; any other error shows when it runs
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(trace).result()
