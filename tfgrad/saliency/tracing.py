"""The graph of a network's calls and operations, traced for inspection and then discarded."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import keras
import tensorflow as tf

from tfgrad.internal import call_hooks
from tfgrad.internal.unchanged_state import unchanged_state


def traced(network: keras.Model, spec: Any, handler: call_hooks.Handler | None = None) -> Any:
    """The `FuncGraph` of one call of the network in inference mode.

    Args:
        network: The network; no state of it changes.
        spec: Shapes and dtypes of its inputs, a nest of `tf.TensorSpec`.
        handler: Sees every call of a layer or operation while the graph is traced; None observes
            nothing.
    """

    def run(x: Any) -> Any:
        observer = call_hooks.handled(handler or call_hooks.Handler())
        with observer, unchanged_state():
            return network(x, training=False)

    def trace() -> Any:
        return tf.function(run, autograph=False).get_concrete_function(spec).graph

    # The caller's graphs, tapes and handlers are local to its thread.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(trace).result()


def operations(graph: tf.Graph) -> list[str]:
    """The types of a graph's operations, including those of the functions it calls."""
    definition = graph.as_graph_def()
    bodies = [function.node_def for function in definition.library.function]
    return [node.op for body in (definition.node, *bodies) for node in body]
