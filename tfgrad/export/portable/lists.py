"""Lists of tensors, with which loops collect what they compute, kept while a graph is rewritten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# An entry is a tensor, an array, or None where nothing was written.
Items = tuple[Any, ...]


def is_list_operation(kind: str) -> bool:
    """Whether `computed` knows an operation, by its type."""
    return kind in _RULES


def computed(
    operation: tf.Operation, inputs: Sequence[Any], tensor: Callable[[Any], tf.Tensor]
) -> list[Any]:
    """The outputs of an operation on lists.

    Args:
        operation: The operation.
        inputs: Its inputs: lists as tuples, others as arrays where they are known.
        tensor: Makes a tensor of another input.

    Raises:
        LookupError: A place in a list, or its length, depends on the image.
    """
    try:
        return _RULES[operation.type](operation, list(inputs), tensor)
    except (TypeError, ValueError, IndexError) as error:
        raise LookupError(f"{operation.type} ({error})") from error


def _from_tensor(operation: Any, inputs: list[Any], tensor: Any) -> list[Any]:
    values = inputs[0]
    return [tuple(values if isinstance(values, np.ndarray) else tf.unstack(values))]


def _reserved(operation: Any, inputs: list[Any], tensor: Any) -> list[Any]:
    return [(None,) * int(inputs[1])]


def _set(operation: Any, inputs: list[Any], tensor: Any) -> list[Any]:
    items, index, value = inputs
    return [(*items[: int(index)], value, *items[int(index) + 1 :])]


def _got(operation: Any, inputs: list[Any], tensor: Any) -> list[Any]:
    items, index, shape = inputs
    return [_entry(items, items[int(index)], shape, operation)]


def _stacked(operation: Any, inputs: list[Any], tensor: Any) -> list[Any]:
    items, shape = inputs
    return [tf.stack([tensor(_entry(items, item, shape, operation)) for item in items])]


def _popped(operation: Any, inputs: list[Any], tensor: Any) -> list[Any]:
    items, shape = inputs
    return [items[:-1], _entry(items, items[-1], shape, operation)]


def _zeros(operation: Any, inputs: list[Any], tensor: Any) -> list[Any]:
    items = [None if item is None else tf.zeros_like(tensor(item)) for item in inputs[0]]
    return [tuple(items)]


def _sum(operation: Any, inputs: list[Any], tensor: Any) -> list[Any]:
    found = []
    for entries in zip(*inputs, strict=True):
        present = [tensor(entry) for entry in entries if entry is not None]
        found.append(tf.add_n(present) if present else None)
    return [tuple(found)]


def _entry(items: Items, item: Any, shape: Any, operation: tf.Operation) -> Any:
    """An entry of a list; zeros where none was written."""
    if item is not None:
        return item
    like = next((other for other in items if other is not None), None)
    if like is not None:
        shape = like.shape
    kind = operation.outputs[-1].dtype.as_numpy_dtype
    return np.zeros([int(n) for n in shape], kind)


_RULES: dict[str, Callable[[Any, list[Any], Any], list[Any]]] = {
    "TensorListReserve": _reserved,
    "EmptyTensorList": lambda operation, inputs, tensor: [()],
    "TensorListFromTensor": _from_tensor,
    "TensorListSetItem": _set,
    "TensorListGetItem": _got,
    "TensorListStack": _stacked,
    "TensorListPushBack": lambda operation, inputs, tensor: [(*inputs[0], inputs[1])],
    "TensorListPopBack": _popped,
    "TensorListLength": lambda operation, inputs, tensor: [np.asarray(len(inputs[0]), np.int32)],
    "TensorListElementShape": lambda operation, inputs, tensor: [
        np.asarray(
            next(item for item in inputs[0] if item is not None).shape,
            operation.outputs[0].dtype.as_numpy_dtype,
        )
    ],
    "ZerosLike": _zeros,
    "AddN": _sum,
    "AddV2": _sum,
}
