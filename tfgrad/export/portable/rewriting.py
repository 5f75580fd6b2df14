"""A traced function rewritten into elementary operations, with everything that is known folded.

The graph is run again, operation by operation, in a new graph. Variables become constants, calls of
functions their bodies, and what depends on shapes and constants alone is computed. Operations of
`elementary` take the place of those that other runtimes lack. The network and TensorFlow's
registries stay as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.export.portable import counters, lists
from tfgrad.export.portable.elementary import ELEMENTARY, Rule
from tfgrad.internal.graph_operations import needed, rerun

_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
_LOOPS = {"While", "StatelessWhile"}
_BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}
_PASSES = {
    *("Identity", "StopGradient", "PreventGradient", "Snapshot", "CheckNumerics", "EnsureShape"),
    *("ReadVariableOp", "PlaceholderWithDefault", "IdentityN"),
}
_SHAPES = {"Shape", "ShapeN", "Size", "Rank"}
# What fills a tensor takes no place in a file as long as it stays an operation.
_LARGE = 1024
# Their values differ from run to run.
_RANDOM = {"RandomStandardNormal", "RandomUniform", "RandomUniformInt", "TruncatedNormal"}


def rewritten(
    function: Any,
    inputs: Mapping[str, tf.TensorSpec],
    *,
    rules: Mapping[str, Rule] = ELEMENTARY,
) -> Any:
    """A concrete function of elementary operations that has no variables.

    Args:
        function: A concrete function without captures other than variables and constants, which
            returns a dictionary of tensors.
        inputs: Specifications of static shapes by name, of its inputs and perhaps of others.
        rules: What takes the place of which operation.

    Raises:
        LookupError: An operation takes a table or another resource, or cannot run with what is
            known of its inputs; its name.
    """
    graph = function.graph
    captured = {id(inner): outer for outer, inner in graph.captures}
    outputs = function.structured_outputs
    own = inputs_of(function)

    def run(**given: tf.Tensor) -> dict[str, tf.Tensor]:
        known: dict[int, Any] = {key: _captured(outer) for key, outer in captured.items()}
        known |= {id(tensor): given[name] for name, tensor in own.items()}
        rewriting = Rewriting(rules)
        found = rewriting.run([outputs[name] for name in outputs], known)
        return {
            name: tf.identity(rewriting.tensor(value), name=name)
            for name, value in zip(outputs, found, strict=True)
        }

    specs = {name: tf.TensorSpec(inputs[name].shape, inputs[name].dtype, name) for name in own}
    return tf.function(run, autograph=False).get_concrete_function(**specs)


def inputs_of(function: Any) -> dict[str, tf.Tensor]:
    """The inputs of a concrete function by name, without what it captures."""
    captured = {id(inner) for _, inner in function.graph.captures}
    return {t.op.name: t for t in function.graph.inputs if id(t) not in captured}


def _captured(tensor: Any) -> Any:
    """What a graph captured: the value of a constant, or a variable, whose value is read later."""
    if tensor.dtype in (tf.resource, tf.variant):
        return _Variable(tensor)
    with tf.init_scope():
        return np.asarray(tensor.numpy())


class _Variable:
    """A captured variable, read once."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self._value: np.ndarray | None = None

    def read(self, dtype: tf.DType) -> np.ndarray:
        if self._value is None:
            tensor = self._tensor
            with tf.init_scope():
                if tensor.dtype == tf.resource:
                    tensor = tf.raw_ops.ReadVariableOp(resource=tensor, dtype=dtype)
                self._value = np.asarray(tensor.numpy())
        return self._value


class Rewriting:
    """One run of a graph.

    Values are tensors of the new graph, arrays where they are known, and tuples for lists.

    Args:
        rules: See `rewritten`.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = rules
        # One constant of a graph for each array; both are kept so that their ids stay their own.
        self._constants: dict[tuple[int, int], tuple[Any, np.ndarray, tf.Tensor]] = {}

    def run(self, targets: Sequence[tf.Tensor], known: dict[int, Any]) -> list[Any]:
        """The values of tensors of one graph.

        Args:
            targets: The tensors.
            known: {id of a tensor: its value}; receives all others.
        """
        for operation in needed(targets, known):
            values = self._outputs(operation, [known.get(id(t)) for t in operation.inputs])
            for tensor, value in zip(operation.outputs, values, strict=True):
                known.setdefault(id(tensor), value)
        return [known[id(target)] for target in targets]

    def _outputs(self, operation: tf.Operation, inputs: list[Any]) -> Sequence[Any]:
        kind = operation.type
        if kind == "Const":
            return [np.asarray(tf.get_static_value(operation.outputs[0]))]
        if kind in _PASSES:
            return [_read(v, t) for v, t in zip(inputs, operation.outputs, strict=False)]
        if kind in _SHAPES:
            found = [
                _shape(kind, value, t) for value, t in zip(inputs, operation.outputs, strict=True)
            ]
            if all(value is not None for value in found):
                return found
        if kind in _CALLS:
            return self._called(operation, operation.get_attr("f").name, inputs)
        if kind in _BRANCHES:
            return self._branched(operation, inputs)
        if kind in _LOOPS:
            return self._looped(operation, inputs)
        handles = {tf.resource, tf.variant}
        of_lists = tf.variant in {t.dtype for t in (*operation.inputs, *operation.outputs)}
        if of_lists and lists.is_list_operation(kind):
            return lists.computed(operation, inputs, self.tensor)
        if kind not in _RANDOM and inputs and not handles & {t.dtype for t in operation.outputs}:
            known = [isinstance(value, np.ndarray) for value in inputs]
            if all(known):
                return _computed(operation, inputs)
            if all(isinstance(value, np.ndarray | counters.Steps) for value in inputs):
                steps = counters.tabulated(functools.partial(_computed, operation), inputs)
                if steps is not None:
                    return steps
        if any(isinstance(value, _Variable) for value in inputs):
            raise LookupError(kind)  # it takes something else than a variable's value
        if any(isinstance(value, tuple) for value in inputs):
            raise LookupError(kind)  # an operation on a list that is not known
        tensors = [self.tensor(value) for value in inputs]
        rule = self._rules.get(kind)
        try:
            replaced = None if rule is None else rule(operation, tensors, inputs)
            return rerun(operation, tensors) if replaced is None else _listed(replaced)
        except (AttributeError, TypeError, ValueError, tf.errors.OpError) as error:
            raise LookupError(f"{kind} ({error})") from error

    def tensor(self, value: Any) -> tf.Tensor:
        """A value as a tensor of the graph that is being built."""
        if isinstance(value, counters.Steps):
            return value.tensor
        if not isinstance(value, np.ndarray):
            return value
        graph = tf.compat.v1.get_default_graph()
        key = id(graph), id(value)
        if key not in self._constants:
            self._constants[key] = graph, value, _constant(value)
        return self._constants[key][2]

    def _called(self, operation: tf.Operation, name: str, inputs: list[Any]) -> list[Any]:
        body = operation.graph._get_function(name).graph
        known = {id(t): value for t, value in zip(body.inputs, inputs, strict=True)}
        return self.run(body.outputs, known)

    def _branched(self, operation: tf.Operation, inputs: list[Any]) -> Sequence[Any]:
        chosen, rest = inputs[0], inputs[1:]
        if operation.type.endswith("If"):
            names = [operation.get_attr(f"{branch}_branch").name for branch in ("else", "then")]
        else:
            names = [branch.name for branch in operation.get_attr("branches")]
        if isinstance(chosen, np.ndarray):
            number = int(chosen)
            number = number if 0 <= number < len(names) else len(names) - 1
            return self._called(operation, names[number], rest)

        def branch(name: str) -> Callable[[], list[tf.Tensor]]:
            return lambda: [self.tensor(v) for v in self._called(operation, name, rest)]

        if operation.type.endswith("If"):
            return _listed(tf.cond(tf.cast(chosen, tf.bool), branch(names[1]), branch(names[0])))
        return _listed(tf.switch_case(chosen, [branch(name) for name in names]))

    def _looped(self, operation: tf.Operation, inputs: list[Any]) -> Sequence[Any]:
        condition = operation.get_attr("cond").name
        body = operation.get_attr("body").name
        if any(isinstance(value, tuple) for value in inputs):
            return self._unrolled(operation, inputs)
        # Variables and what the body passes on as it is are no part of the loop's state.
        graphs = {
            part: operation.graph._get_function(operation.get_attr(part).name).graph
            for part in ("cond", "body")
        }
        inner = graphs["body"]
        moving = [
            i
            for i, value in enumerate(inputs)
            if not isinstance(value, _Variable) and inner.outputs[i] is not inner.inputs[i]
        ]
        fixed = {
            i: v for i, v in enumerate(inputs) if i not in moving and isinstance(v, np.ndarray)
        }

        def value_of(part: str, output: int, values: dict[int, Any]) -> Any:
            graph = graphs[part]
            known = {id(graph.inputs[i]): v for i, v in (fixed | values).items()}
            target = graph.outputs[output]
            if any(o.type == "Placeholder" for o in needed([target], known)):
                return None
            (found,) = self.run([target], known)
            return found if isinstance(found, np.ndarray) else None

        counted = counters.found_in(inputs, moving, value_of)
        steps = {i: values[1] - values[0] for i, values in counted.items()}
        unit = next((i for i, step in steps.items() if step == 1), None)

        def whole(state: Sequence[tf.Tensor]) -> list[Any]:
            values = list(inputs)
            for i, value in zip(moving, state, strict=True):
                values[i] = value
            return values

        def more_of(*state: tf.Tensor) -> tf.Tensor:
            return self.tensor(self._called(operation, condition, whole(state))[0])

        def next_of(*state: tf.Tensor) -> list[tf.Tensor]:
            values = whole(state)
            if unit is not None:
                number = values[unit] - tf.constant(counted[unit][0])
                for i in counted:
                    values[i] = counters.Steps(counted[i][:-1], number)
            found = self._called(operation, body, values)
            return [
                value + tf.constant(steps[i]) if i in steps else self.tensor(found[i])
                for i, value in zip(moving, state, strict=True)
            ]

        start = [self.tensor(inputs[i]) for i in moving]
        found = tf.while_loop(more_of, next_of, start, parallel_iterations=1)
        return whole(_listed(found))

    def _unrolled(self, operation: tf.Operation, inputs: list[Any]) -> list[Any]:
        """A loop that fills or reads lists, written out as often as it runs."""
        values = list(inputs)
        while True:
            (more,) = self._called(operation, operation.get_attr("cond").name, values)
            if not isinstance(more, np.ndarray):
                raise LookupError(f"{operation.type} (its end depends on the input)")
            if not more:
                return values
            values = self._called(operation, operation.get_attr("body").name, values)


def _read(value: Any, tensor: tf.Tensor) -> Any:
    return (
        value.read(tensor.dtype)
        if isinstance(value, _Variable) and tensor.dtype != tf.resource
        else value
    )


def _shape(kind: str, value: Any, output: tf.Tensor) -> np.ndarray | None:
    """The shape of a value of which it is known."""
    lengths = list(value.shape)
    if kind == "Rank":
        return np.asarray(len(lengths), output.dtype.as_numpy_dtype)
    if None in lengths:
        return None
    found = np.prod(lengths, dtype=np.int64) if kind == "Size" else lengths
    return np.asarray(found, output.dtype.as_numpy_dtype)


def _listed(found: Any) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else [found]


def _constant(value: np.ndarray) -> tf.Tensor:
    if value.size > _LARGE and value.dtype.kind in "fiub":
        first = value.reshape(-1)[0]
        if np.all(value == first):
            return tf.fill(value.shape, tf.constant(first, value.dtype))
    return tf.constant(value)


def _computed(operation: tf.Operation, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of an operation of known inputs."""
    with tf.init_scope():
        outputs = rerun(operation, [tf.constant(value) for value in inputs])
        return [np.asarray(t.numpy()) for t in outputs]
