"""A look at a network's calls and operations, in a graph that is thrown away."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients import call_hooks


def traced(network: keras.Model, spec: tf.TensorSpec, handler: call_hooks.Handler) -> tf.Graph:
    """The graph of the network in inference mode, traced once while a handler stands around it."""

    def run(x: tf.Tensor) -> Any:
        with call_hooks.handled(handler), keras.StatelessScope(collect_losses=True):
            return network(x, training=False)

    def trace() -> tf.Graph:
        return tf.function(run, autograph=False).get_concrete_function(spec).graph

    # The caller's graphs, tapes and handlers are local to its thread.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(trace).result()


def operations(graph: tf.Graph) -> list[str]:
    """The types of a graph's operations, those of the functions it calls included."""
    definition = graph.as_graph_def()
    bodies = [function.node_def for function in definition.library.function]
    return [node.op for body in (definition.node, *bodies) for node in body]
