"""Finds the last activation before an output of a functional graph, and the graph without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ModelError
from tfgrad.internal import keras_private
from tfgrad.models.last_activation import calls, kinds


@dataclasses.dataclass(frozen=True)
class Ending:
    """The last activation before a tensor.

    Attributes:
        kind: The activation.
        layer: Name of the layer or operation that applies it.
        key: What the rebuilt graph depends on; equal as long as it need not be built again.
        rebuilt: The tensor without the activation, as new calls of copies that the argument keeps.
    """

    kind: str
    layer: str
    key: tuple[Any, ...]
    rebuilt: Callable[[Copies], Any]


class Copies:
    """The copies of layers, operations and models that a graph without activations contains."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], Any] = {}

    def get(self, key: tuple[int, ...], make: Callable[[], Any]) -> Any:
        """The one copy of what the key stands for, so that shared layers stay shared."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def rename(self, tensors: list[Any]) -> None:
        """Give copies names that differ from those of layers still in the graph of `tensors`."""
        made = {id(copy) for copy in self._made.values()}
        names = {op.name for op in _operations(tensors) if id(op) not in made}
        for copy in self._made.values():
            name, number = copy.name, 0
            while copy.name in names:
                copy.name = f"{name}_logits{number or ''}"
                number += 1
            names.add(copy.name)


@dataclasses.dataclass(frozen=True)
class Opaque:
    """A layer whose `call` is Python code, so that its end has to be looked for by calls."""

    layer: keras.layers.Layer


def find(tensor: Any, through_calls: bool = True) -> Ending | Opaque | None:
    """The last activation before a tensor of a functional graph.

    Args:
        tensor: A Keras tensor.
        through_calls: Whether to call layers written in Python on noise; else they are returned
            as `Opaque`.

    Returns:
        None if the tensor is no activation's.

    Raises:
        ModelError: The activation cannot be left out.
    """
    operation, node = keras_private.producer(tensor)
    if operation is None or not node.input_tensors:
        return None
    rank = len(tensor.shape)
    if keras_private.is_graph_of_layers(operation) and getattr(operation, "outputs", None):
        return _of_nested(operation, node, tensor, through_calls)
    kind = kinds.of_operation(operation, rank)
    if kind == kinds.IDENTITY:
        return _behind(operation, node, tensor, through_calls)
    if kind is not None and len(node.input_tensors) == 1:
        return _separate(operation, node, kind)
    if not isinstance(operation, keras.layers.Layer):
        return None
    if vars(operation).get("activation") is not None:
        return _fused(operation, node, tensor, through_calls)
    if isinstance(operation, keras.layers.Wrapper):
        return _wrapped(operation, node, tensor)
    if keras_private.is_of_keras(operation):
        return None
    return _called(operation, node, tensor, through_calls)


def check_units(kind: str, units: int | None, name: str) -> None:
    """Reject the softmax of one unit.

    Raises:
        ModelError: It is one.
    """
    if kind == kinds.SOFTMAX and units == 1:
        raise ModelError(
            f"layer {name!r}: got a softmax of one unit, which is 1 for every input; expected two "
            "units, or one with a sigmoid. The model was trained on a constant; try "
            'activation="sigmoid" in its last layer, and training it again.'
        )


def _behind(operation: Any, node: Any, tensor: Any, through_calls: bool) -> Any:
    """An activation followed by an operation that only passes values on."""
    source = node.input_tensors[0]
    ending = find(source, through_calls)
    if not isinstance(ending, Ending):
        return ending
    if ending.kind == kinds.SOFTMAX and tensor.shape[-1] != source.shape[-1]:
        raise ModelError(
            f"layer {operation.name!r}: got {tuple(tensor.shape)} made of the softmax "
            f"{tuple(source.shape)} of {ending.layer!r}; expected the classes on the last axis. "
            "Try the part of the model that ends before the reshaping."
        )

    def rebuilt(copies: Copies) -> Any:
        copy = copies.get((id(operation),), lambda: keras_private.sharing_copy(operation))
        return _again(copy, node, {id(source): ending.rebuilt(copies)})

    return dataclasses.replace(ending, key=(id(operation), *ending.key), rebuilt=rebuilt)


def _separate(operation: Any, node: Any, kind: str) -> Ending:
    """An activation that is a layer or an operation of its own."""
    z = node.input_tensors[0]
    check_units(kind, z.shape[-1], operation.name)
    dtype = node.outputs[0].dtype

    def rebuilt(copies: Copies) -> Any:
        if z.dtype == dtype:
            return z
        # Of a half-precision network with a softmax in float32: the output keeps its dtype.
        cast = copies.get(
            (id(operation),),
            lambda: keras.layers.Activation("linear", dtype=dtype, name=operation.name),
        )
        return cast(z)

    return Ending(kind, operation.name, (id(operation), dtype), rebuilt)


def _fused(layer: Any, node: Any, tensor: Any, through_calls: bool) -> Any:
    """A layer that applies an activation to its result."""
    kind = kinds.of_function(layer.activation, len(tensor.shape))
    if kind is None or kind == kinds.IDENTITY:
        if keras_private.is_of_keras(layer):
            return None
        return _called(layer, node, tensor, through_calls)
    check_units(kind, tensor.shape[-1], layer.name)
    if not keras_private.is_of_keras(layer) and not _ends(layer, node, kind):
        return _called(layer, node, tensor, through_calls)

    def rebuilt(copies: Copies) -> Any:
        return _again(copies.get((id(layer),), lambda: calls.without_activation(layer)), node, {})

    return Ending(kind, layer.name, (*_state(layer), id(layer.activation)), rebuilt)


def _wrapped(wrapper: Any, node: Any, tensor: Any) -> Ending | None:
    """A layer inside another, such as a `TimeDistributed`, that applies an activation."""
    inner = wrapper.layer
    kind = calls.activation_of(inner, len(tensor.shape))
    if kind is None:
        return None
    check_units(kind, tensor.shape[-1], inner.name)

    def copy() -> Any:
        return keras_private.sharing_copy(wrapper, layer=calls.without_activation(inner))

    if not _ends(wrapper, node, kind, copy):
        return None
    key = (*_state(wrapper), id(getattr(inner, "activation", None)))
    return Ending(
        kind, inner.name, key, lambda copies: _again(copies.get((id(wrapper),), copy), node, {})
    )


def _of_nested(model: Any, node: Any, tensor: Any, through_calls: bool) -> Any:
    """The last activation inside a model that is called as a layer."""
    index = keras_private.output_index(tensor)
    ending = find(model.outputs[index], through_calls)
    if not isinstance(ending, Ending):
        return ending

    def rebuilt(copies: Copies) -> Any:
        inner = copies.get((id(model), index), lambda: model_of(model, {index: ending}, [index]))
        return _again(inner, node, {})

    return dataclasses.replace(ending, key=(id(model), index, *ending.key), rebuilt=rebuilt)


def _called(layer: Any, node: Any, tensor: Any, through_calls: bool) -> Any:
    """The last activation inside the `call` of a layer."""
    if not through_calls:
        return Opaque(layer)
    arguments = node.arguments
    if len(arguments.args) != 1 or keras.tree.flatten(arguments.kwargs):
        return None
    inputs = arguments.args[0]
    shapes = keras.tree.map_structure(lambda t: tuple(t.shape), inputs)
    found = calls.found(layer, inputs, shapes)
    index = keras_private.output_index(tensor)
    if found is None or found.kinds[index] is None:
        return None
    kind, model = str(found.kinds[index]), found.model
    check_units(kind, tensor.shape[-1], found.layer)

    def rebuilt(copies: Copies) -> Any:
        outputs = copies.get((id(layer),), lambda: model)(inputs)
        return keras.tree.flatten(outputs)[index]

    # The same activations in the same calls, and so the same model.
    return Ending(kind, found.layer, (*_state(layer), model.left_out, found.kinds), rebuilt)


def model_of(model: Any, endings: dict[int, Ending], kept: list[int] | None = None) -> keras.Model:
    """The functional model without activations.

    Args:
        model: A functional or Sequential model.
        endings: {index of an output: the activation that it loses}.
        kept: Indices of the outputs to keep; None keeps all, in their structure.
    """
    copies = Copies()
    flat = [
        endings[i].rebuilt(copies) if i in endings else tensor
        for i, tensor in enumerate(model.outputs)
    ]
    copies.rename(flat)
    sequential = isinstance(model, keras.Sequential)
    # `Functional.inputs` loses the structure, `Sequential.input` needs a symbolic call.
    inputs = model.inputs[0] if sequential else model.input
    if kept is not None:
        outputs = [flat[i] for i in kept]
        outputs = outputs[0] if len(outputs) == 1 else outputs
    else:
        outputs = flat[0] if sequential else keras.tree.pack_sequence_as(model.output, flat)
    return keras.Model(inputs, outputs, name=model.name)


def _again(operation: Any, node: Any, replaced: dict[int, Any]) -> Any:
    """A further call of an operation with the arguments of an earlier one."""

    def value(argument: Any) -> Any:
        return replaced.get(id(argument), argument)

    args, kwargs = keras.tree.map_structure(value, (node.arguments.args, node.arguments.kwargs))
    return operation(*args, **kwargs)


def _ends(layer: Any, node: Any, kind: str, copy: Callable[[], Any] | None = None) -> bool:
    """Whether a layer's output is an activation of that of its copy without it, on noise."""
    made = copy() if copy is not None else calls.without_activation(layer)
    with tf.init_scope(), kinds.unchanged_state():
        x = keras.tree.map_structure(
            lambda t: kinds.noise(t.shape, t.dtype) if isinstance(t, keras.KerasTensor) else t,
            (node.arguments.args, node.arguments.kwargs),
        )
        y, z = (run(*x[0], **x[1]) for run in (layer, made))
        return kinds.close(kinds.applied(kind, z), y)


def _state(layer: Any) -> tuple[Any, ...]:
    """What a copy of a layer shares with it."""
    policy = layer.dtype_policy.name
    return (id(layer), policy, layer.trainable, *map(id, layer.variables))


def _operations(tensors: list[Any]) -> list[Any]:
    """Every operation that tensors depend on."""
    found: dict[int, Any] = {}
    left = list(tensors)
    seen: set[int] = set()
    while left:
        tensor = left.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        operation, node = keras_private.producer(tensor)
        if operation is not None:
            found[id(operation)] = operation
            left.extend(node.input_tensors)
    return list(found.values())
