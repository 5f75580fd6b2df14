"""The operations of a traced network, run on coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.internal.graph_operations import needed, rerun
from tfgrad.saliency.placement.positions import Positions


class Lost:
    """Values that depend on the image, but at no place: attention scores, states of loops."""


LOST = Lost()
UNKNOWN = object()
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_CONDITIONS = ("If", "StatelessIf", "Case", "StatelessCase")


class Walk:
    """One run of a graph on coordinates.

    Args:
        known: {id of a tensor: `Positions`, `LOST`, a NumPy array, or None for values that do not
            depend on the image}.
        seen: Receives the share of pixels that reach tensors without a place.
        rules: What is known of an operation's outputs, from this run, the operation and what is
            known of its inputs; None if their places cannot be told.
    """

    def __init__(
        self,
        known: dict[int, Any],
        seen: list[tf.Tensor],
        rules: Callable[[Walk, tf.Operation, list[Any]], Sequence[Any] | None],
    ) -> None:
        self._known, self._seen, self._rules = known, seen, rules

    def run(self, targets: Iterable[tf.Tensor]) -> list[Any]:
        """The positions of tensors of one graph."""
        targets = list(targets)
        for operation in needed(targets, self._known):
            for tensor, value in zip(operation.outputs, self._outputs(operation), strict=True):
                self._known.setdefault(id(tensor), value)
        return [self._known.get(id(target)) for target in targets]

    def of(self, tensor: tf.Tensor) -> Any:
        """What is known of a tensor."""
        return self._known.get(id(tensor))

    def number(self, tensor: tf.Tensor) -> Any:
        """The value of a tensor that depends on weights, shapes and constants alone, or None."""
        value = self._known.get(id(tensor))
        if value is None:
            value = self._known[id(tensor)] = self._computed(tensor)
        return value if isinstance(value, np.ndarray) else None

    def gain(self, kernel: tf.Tensor, outputs: int | None) -> float:
        """Σ w² of a kernel's inputs, as a mean over its outputs; 1 if its values are not known."""
        weights = self.number(kernel)
        if weights is None or not outputs or not weights.size:
            return 1.0
        return float(np.sum(np.square(weights, dtype="float64"))) / outputs

    def sees(self, values: Iterable[Any]) -> None:
        """Note that the output may depend on all these cells."""
        for value in values:
            if isinstance(value, Positions):
                self._seen.append(tf.reduce_sum(value.planes(value.held.any)))

    def _outputs(self, operation: tf.Operation) -> Sequence[Any]:
        inputs = [self.of(tensor) for tensor in operation.inputs]
        count = len(operation.outputs)
        if operation.type == "Shape" and isinstance(inputs[0], Positions):
            return [np.asarray(inputs[0].shape, operation.outputs[0].dtype.as_numpy_dtype)]
        if not any(isinstance(value, Positions | Lost) for value in inputs):
            return [None] * count  # computed where it is asked for
        if not any(isinstance(value, Positions) for value in inputs):
            return [LOST] * count
        if operation.type in _CALLS:
            return self._called(operation, operation.get_attr("f").name, 0, inputs)
        branch = self._branch(operation) if operation.type in _CONDITIONS else None
        if branch is not None:
            return self._called(operation, branch, 1, inputs)
        found = self._rules(self, operation, inputs)
        if found is None:
            self.sees(inputs)
            return [LOST] * count
        return found

    def _computed(self, tensor: tf.Tensor) -> Any:
        """The value of a tensor that does not depend on the image; `UNKNOWN` without one."""
        operation = tensor.op
        if operation.type == "Const":
            return np.asarray(tf.get_static_value(tensor))
        if operation.type == "ReadVariableOp":
            handle = self._handle(operation.inputs[0])
            if handle is None:
                return UNKNOWN
            return tf.raw_ops.ReadVariableOp(resource=handle, dtype=tensor.dtype).numpy()
        inputs = [self.number(t) for t in operation.inputs]
        if not inputs or any(value is None for value in inputs):
            return UNKNOWN
        try:
            outputs = [np.asarray(t) for t in rerun(operation, inputs)]
        except (AttributeError, TypeError, ValueError, tf.errors.OpError):
            return UNKNOWN
        return next(v for t, v in zip(operation.outputs, outputs, strict=True) if t is tensor)

    def _handle(self, tensor: tf.Tensor) -> Any:
        """The variable behind a captured tensor, or None."""
        known = self._known.get(id(tensor))
        if known is not None:
            return known
        outer = (outer for outer, inner in tensor.graph.captures if inner is tensor)
        handle = next(outer, None)
        return handle if hasattr(handle, "numpy") else None

    def _branch(self, operation: tf.Operation) -> str | None:
        """The function of the branch that a condition takes; None if the image decides it."""
        number = self.number(operation.inputs[0])
        if number is None:
            return None
        if operation.type.endswith("If"):
            branch = operation.get_attr("then_branch" if number else "else_branch")
        else:
            branches = operation.get_attr("branches")
            branch = branches[int(number) if 0 <= number < len(branches) else -1]
        return branch.name

    def _called(
        self, operation: tf.Operation, function: str, first: int, inputs: list[Any]
    ) -> Sequence[Any]:
        """The body of a `tf.function`, or a branch, that takes the inputs from `first` on."""
        body = operation.graph._get_function(function).graph
        known = {}
        for inner, outer, value in zip(
            body.inputs, operation.inputs[first:], inputs[first:], strict=True
        ):
            if outer.dtype == tf.resource:
                known[id(inner)] = self._handle(outer)
            else:
                known[id(inner)] = self.number(outer) if value is None else value
        return Walk(known, self._seen, self._rules).run(body.outputs)
