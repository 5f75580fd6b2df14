"""The operations of a traced graph, run again on other inputs."""

from __future__ import annotations

import inspect
from collections.abc import Container, Sequence
from typing import Any

import tensorflow as tf


def rerun(operation: tf.Operation, inputs: Sequence[Any]) -> list[tf.Tensor]:
    """The outputs of an operation for other inputs."""
    definition = operation.op_def
    inferred = {
        name
        for argument in definition.input_arg
        for name in (argument.type_attr, argument.number_attr, argument.type_list_attr)
    }
    arguments: dict[str, Any] = {
        attribute.name: operation.get_attr(attribute.name)
        for attribute in definition.attr
        if attribute.name not in inferred
    }
    for name, value in arguments.items():
        if isinstance(value, bytes):
            arguments[name] = value.decode()
    rest = list(inputs)
    for argument in definition.input_arg:
        if argument.number_attr:
            count = operation.get_attr(argument.number_attr)
            arguments[argument.name], rest = rest[:count], rest[count:]
        else:
            arguments[argument.name] = rest.pop(0)
    function = getattr(tf.raw_ops, operation.type)
    known = [name for name in inspect.signature(function).parameters if name != "name"]
    # Some arguments of the functions have other names than those of the operations: `axis`, `x`.
    own = [name for name in arguments if name not in known]
    others = [name for name in known if name not in arguments]
    renamed = dict(zip(own, others, strict=False))
    arguments = {renamed.get(name, name): value for name, value in arguments.items()}
    outputs = function(**arguments)
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def needed(targets: Sequence[tf.Tensor], known: Container[int]) -> list[tf.Operation]:
    """The operations on which tensors depend, each after those of its inputs.

    A graph's own order is not such an order: a gradient adds inputs to loops that exist.

    Args:
        targets: Tensors of one graph.
        known: ids of tensors whose operations are not needed.
    """
    order: dict[int, tf.Operation] = {}
    rest = [(target.op, False) for target in reversed(targets) if id(target) not in known]
    while rest:
        operation, is_ready = rest.pop()
        if id(operation) in order:
            continue
        if is_ready:
            order[id(operation)] = operation
            continue
        rest.append((operation, True))
        rest += [
            (t.op, False)
            for t in reversed(operation.inputs)
            if id(t) not in known and id(t.op) not in order
        ]
    return list(order.values())
