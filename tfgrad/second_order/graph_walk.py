"""Walks over the operations of a trace, function bodies included, with the layer of each."""

import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
from tensorflow.python.framework import ops

from tfgrad.second_order.tracing import Trace

_PROBABILITIES = {"Softmax", "Sigmoid"}
_TRANSPARENT = {"Identity", "Cast", "Reshape", "Squeeze", "ExpandDims", "EnsureShape"}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
# The mark of a `tf.function(jit_compile=True)`, on its body and on calls of it.
_COMPILED = "_XlaMustCompile"
# The gradient that `tf.recompute_grad` gives to a call; that one's own is no call's output.
_RECOMPUTES = re.compile(r"recompute_grad\.(?!.*inner_recompute_grad)")


class Visited(NamedTuple):
    """An operation of a graph, and the layer that it belongs to.

    Attributes:
        node: Its NodeDef.
        owner: The layer.
        holder: The layer, or the innermost one around it that the network keeps.
        stopped: Whether it is the `stop_gradient` of a mean inside a variance of the input.
        dependent: Whether it depends on the differentiated inputs.
        compiled: Whether it is in a function that XLA compiles by itself.
    """

    node: Any
    owner: keras.layers.Layer
    holder: keras.layers.Layer
    stopped: bool
    dependent: bool
    compiled: bool


def walk(traced: Trace, dependent: set[str]) -> Iterator[Visited]:
    """Every operation in the order of the graph, function bodies after the node that calls them.

    Args:
        traced: The trace.
        dependent: Names of the nodes that are differentiated inputs.
    """
    yield from _walk(traced, traced.nodes, dependent, "", set(), False)


def _walk(
    traced: Trace,
    nodes: Iterable[Any],
    dependent: set[str],
    scope: str,
    seen: set[tuple[str, int, bool, bool]],
    compiled: bool,
) -> Iterator[Visited]:
    """`walk` in the graph or in one function body.

    Args:
        traced: The trace.
        nodes: NodeDefs of the graph or body.
        dependent: Names of the nodes or arguments that depend on the differentiated inputs.
        scope: Path of the calling node.
        seen: Bodies visited already, by name, owner, whether they depend on the inputs, and
            whether XLA compiles them.
        compiled: Whether XLA compiles the body.
    """
    owners, functions = traced.owners, traced.functions
    nodes = list(nodes)
    by_name = {node.name: node for node in nodes}
    dependent = _closure(nodes, dependent)
    stopped = _stopped_means(nodes, by_name, dependent)
    for node in nodes:
        path = scope + node.name
        owner = owners.of(path)
        if owner is owners.network and node.op in _CALLS:
            # A backward call carries no scope; its forward call, whose values it takes, does.
            forward = (by_name.get(_source(i)) for i in node.input)
            named = [scope + f.name for f in forward if f is not None and f.op in _CALLS]
            path = next((p for p in named if owners.of(p) is not owners.network), path)
            owner = owners.of(path)
        yield Visited(
            node,
            owner,
            owners.holder(path),
            stopped=node.name in stopped,
            dependent=node.name in dependent,
            compiled=compiled,
        )
        for function in _bodies(node, functions):
            arguments = [a.name for a in function.signature.input_arg]
            sources = [_source(i) for i in node.input if not i.startswith("^")]
            if node.op in _CALLS:  # argument by argument; loops and branches as a whole
                inner = {a for a, s in zip(arguments, sources, strict=False) if s in dependent}
            else:
                inner = set(arguments) if node.name in dependent else set()
            by_xla = compiled or any(_COMPILED in n.attr for n in (node, function))
            key = (function.signature.name, id(owner), bool(inner), by_xla)
            if key not in seen:
                seen.add(key)
                yield from _walk(traced, function.node_def, inner, path + "/", seen, by_xla)


def _source(tensor: str) -> str:
    """The node (or argument) a tensor comes from: `node:out:0`, `node:1`, `^node` → `node`."""
    return tensor.lstrip("^").split(":")[0]


def _bodies(node: Any, functions: Mapping[str, Any]) -> Iterator[Any]:
    for attribute in node.attr.values():
        called = [attribute.func] if attribute.HasField("func") else list(attribute.list.func)
        yield from (functions[f.name] for f in called if f.name in functions)


def _closure(nodes: list[Any], dependent: set[str]) -> set[str]:
    dependent, size = set(dependent), -1
    while size != len(dependent):  # one pass where nodes are sorted, as they nearly always are
        size = len(dependent)
        for node in nodes:
            if any(_source(i) in dependent for i in node.input if not i.startswith("^")):
                dependent.add(node.name)
    return dependent


def _stopped_means(nodes: list[Any], by_name: Mapping[str, Any], dependent: set[str]) -> set[str]:
    """StopGradient nodes with the pattern of tf.nn.moments: (x − stop(mean(x)))².

    The pattern, not the name scope, which the caller of tf.nn.moments chooses. Of a function of the
    weights alone, as in weight standardisation, the penalty takes one derivative: nothing is lost.
    """

    def origin(tensor: str, through: tuple[str, ...] = ("Identity", "Cast")) -> Any:
        node = by_name.get(_source(tensor))
        while node is not None and node.op in through:
            node = by_name.get(_source(node.input[0]))
        return node

    stopped = set()
    for node in nodes:
        if node.op != "SquaredDifference":
            continue
        for stop in (origin(i) for i in node.input):
            if stop is None or stop.op != "StopGradient" or stop.name not in dependent:
                continue
            mean = origin(stop.input[0])
            others = [_source(i) for i in node.input if origin(i) is not stop]
            if mean is not None and mean.op == "Mean" and _source(mean.input[0]) in others:
                stopped.add(stop.name)
    return stopped


def is_recomputed(node: Any) -> bool:
    """Whether a node is the output of a call that `tf.recompute_grad` repeats backwards."""
    name = node.attr["_gradient_op_type"].s.decode() if "_gradient_op_type" in node.attr else ""
    if not name:
        return False
    try:
        gradient = ops.gradient_registry.lookup(name)
    except LookupError:
        return False
    return any(_RECOMPUTES.match(f.__qualname__) for f in _enclosed(gradient))


def _enclosed(function: Any) -> list[Any]:
    """A custom gradient as registered, and the functions that it wraps."""
    found: list[Any] = []
    while function is not None and len(found) < 4:
        found.append(function)
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        inner = [c for c in cells if isinstance(c, types.FunctionType) and c not in found]
        function = next((c for c in inner if c.__module__ == function.__module__), None)
    return found


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def find_probabilities(traced: Trace, tensor: str) -> str | None:
    """Name of the layer whose softmax or sigmoid yields a tensor, up to casts and reshapes."""
    owners, functions = traced.owners, traced.functions
    frames = [({n.name: n for n in traced.nodes}, "", None)]  # nodes, scope, the call (None: top)
    while True:
        by_name, scope, call = frames[-1]
        node = by_name.get(_source(tensor))
        if node is None:  # an argument of the function: go on in the caller
            if call is None:
                return None
            frames.pop()
            arguments = [a.name for a in next(_bodies(call, functions)).signature.input_arg]
            tensor = call.input[arguments.index(_source(tensor))]
        elif node.op in _TRANSPARENT:
            tensor = node.input[0]
        elif node.op in _CALLS:
            function = next(_bodies(node, functions))
            index = int(tensor.rsplit(":", 1)[1]) if ":" in tensor else 0
            tensor = function.ret[function.signature.output_arg[index].name]
            body = {n.name: n for n in function.node_def}
            frames.append((body, f"{scope}{node.name}/", node))
        elif node.op in _PROBABILITIES:
            owner = owners.of(scope + node.name)
            return f"{owner.name}/{node.op}" if owner is owners.network else owner.name
        else:
            return None
