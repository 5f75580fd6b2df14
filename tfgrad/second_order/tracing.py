"""One trace of a network and its input-gradient, with everything that is read from it."""

import concurrent.futures
import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ModelError
from tfgrad.internal import gradient_registry
from tfgrad.internal.call_hooks import Handler, current_graph, handled, is_elsewhere
from tfgrad.internal.derivatives import corrected_derivatives
from tfgrad.internal.function_copies import copied_functions
from tfgrad.second_order.owners import Owners

_NO_GRADIENT = re.compile(r"has no entry for: (\w+)|op type: (\w+)")


@dataclasses.dataclass(frozen=True)
class Trace:
    """The graph of f and ∇x Σf.

    Attributes:
        nodes: NodeDefs of the graph.
        functions: FunctionDefs of the graph's library, by name.
        outputs: Names of f's floating output tensors.
        embedded: Names of the operations that turned integer inputs into floats, where these are
            differentiated.
        owners: The layer of every operation.
        missing: The operation for which TensorFlow has no first derivative, if there is one; the
            graph then ends at f.
        called: The network's own `tf.function`s that it called.
        moved: Paths of the variables outside the network that the call would have assigned.
    """

    nodes: list[Any]
    functions: Mapping[str, Any]
    outputs: list[str]
    embedded: list[str]
    owners: Owners
    missing: str | None
    called: list[Any]
    moved: list[str]


def trace(
    network: keras.layers.Layer, specs: Any, training: bool, embeddings: bool = False
) -> Trace:
    """Trace a network and its input-gradient without changing any variable.

    Args:
        network: A Keras model or layer. It is built first if it is not.
        specs: A nest of `tf.TensorSpec` for its inputs; the floating ones are differentiated.
        training: The mode of the call.
        embeddings: Whether the outputs of layers that take integers are differentiated, too; they
            are where no input is floating.

    Raises:
        ModelError: No output of the network is floating.
    """
    build(network, specs, training)
    # The caller may be inside a tf.function, a tape, a strategy, a stateless scope: all of them are
    # local to its thread. tf.init_scope would not do, for it pauses tapes, the one here included.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(_trace, network, specs, training, embeddings).result()


def build(network: keras.layers.Layer, specs: Any, training: bool = True) -> None:
    """Build a network by a symbolic call, unless it is built.

    Args:
        network: A Keras model or layer.
        specs: As for `trace`.
        training: The mode of the call.
    """
    if network.built:
        return
    symbolic = keras.tree.map_structure(
        lambda s: keras.KerasTensor(tuple(s.shape), s.dtype.name), specs
    )
    with tf.init_scope():
        network(symbolic, training=training)


class _Watching(keras.StatelessScope):
    """A stateless scope that remembers which variables a call would have moved."""

    def __init__(self) -> None:
        super().__init__(collect_losses=True)
        self.moved: list[keras.Variable] = []

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        self.moved.append(update[0])
        super().add_update(update)


class _Embeddings(Handler):
    """Has a function called with the float outputs of layers that take integers alone."""

    def __init__(self, watch: Callable[[tf.Tensor], None]) -> None:
        self._watch, self._graph = watch, current_graph()
        self.found: list[tf.Tensor] = []

    def layer(self, layer: Any, proceed: Any, args: Any, kwargs: Any) -> Any:
        output = proceed(*args, **kwargs)
        if is_elsewhere(self._graph, args, kwargs) or not _is_floating(output):
            return output
        given = [t for t in keras.tree.flatten((args, kwargs)) if tf.is_tensor(t)]
        if given and all(t.dtype.is_integer for t in given):
            self._watch(output)
            self.found.append(output)
        return output


def _trace(network: keras.layers.Layer, specs: Any, training: bool, embeddings: bool) -> Trace:
    owners = Owners(network)
    embedded: list[str] = []
    count = 0
    missing: str | None = None

    def run(*flat: tf.Tensor) -> Any:
        nonlocal count, missing
        floating = [x for x in flat if x.dtype.is_floating]
        # Watching the inputs alone keeps the weights' gradients, which no penalty differentiates
        # twice, out of the graph.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(floating)
            made = _Embeddings(tape.watch)
            with handled(made) if embeddings or not floating else contextlib.nullcontext():
                y = network(keras.tree.pack_sequence_as(specs, flat), training=training)
            floating += made.found
            embedded.extend(t.op.name for t in made.found)
            outputs = [o for o in keras.tree.flatten(y) if _is_floating(o)]
            if not outputs:
                raise ModelError(
                    f"network {network.name!r}: got no floating output; expected one to "
                    "differentiate; try the part of the network that yields logits."
                )
            total = tf.add_n([tf.reduce_sum(tf.cast(o, tf.float32)) for o in outputs])
        count = len(outputs)
        try:
            with gradient_registry.explained():
                gradients = tape.gradient(total, floating) if floating else []
        except LookupError as error:
            found = _NO_GRADIENT.search(str(error))
            if found is None:
                raise
            missing, gradients = found[1] or found[2], []
        return outputs, [g for g in gradients if g is not None]

    flat_specs = keras.tree.flatten(specs)
    with (
        _Watching() as scope,
        handled(owners),
        copied_functions(of_keras=True) as copies,
        corrected_derivatives(False),  # the same trace wherever it is made
    ):
        traced = tf.function(run, autograph=False).get_concrete_function(*flat_specs)
    graph_def = traced.graph.as_graph_def()
    own = {id(v) for v in network.variables}
    return Trace(
        nodes=list(graph_def.node),
        functions={f.signature.name: f for f in graph_def.library.function},
        outputs=[t.name for t in traced.graph.outputs[:count]],
        embedded=embedded,
        owners=owners,
        missing=missing,
        called=copies.originals(),
        moved=list(dict.fromkeys(v.path for v in scope.moved if id(v) not in own)),
    )


def _is_floating(x: Any) -> bool:
    return hasattr(x, "dtype") and tf.as_dtype(x.dtype).is_floating
