"""Whether inputs come in the structure that a network takes: its keys, its nesting, one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.sources import keys_of
from tfgrad.internal import keras_private

Path = tuple[Any, ...]


def check_given(network: keras.layers.Layer, x: Any, at: Any = None) -> None:
    """Check what a functional network is called with: structure, shapes, examples, types of ids.

    Keras's own messages print the whole input.

    Args:
        network: The network.
        x: A nest of tensors or arrays.
        at: Layers whose outputs are differentiated; None where it is the inputs.

    Raises:
        ArgumentError: Something does not fit.
    """
    expected = [tuple(i.shape) for i in getattr(network, "inputs", None) or []]
    got = [tuple(t.shape) if hasattr(t, "shape") else np.shape(t) for t in tf.nest.flatten(x)]
    if any(0 in shape for shape in got):
        raise ArgumentError(f"x: got shape {got[0]}; expected at least one example.")
    if not expected:
        return
    structure = keras_private.input_structure(network)
    if is_container(x) and is_container(structure):
        if isinstance(x, Mapping) and not isinstance(structure, Mapping):
            # Keras takes a dict in the place of a list, by the names of the inputs.
            structure = {i.name: i for i in network.inputs}
            expected = [tuple(structure[key].shape) for key in sorted(structure)]
        check(x, structure, network.name)
    fits = len(got) == len(expected) and all(
        tf.TensorShape(g).is_compatible_with(e) for g, e in zip(got, expected, strict=True)
    )
    if not fits:
        one = len(got) == len(expected) == 1
        hint = (
            "; the batch axis is missing: try x[None]" if one and got[0] == expected[0][1:] else ""
        )
        raise ArgumentError(
            f"x: got shape {', '.join(map(str, got))}; expected "
            f"{', '.join(map(str, expected))}, as model {network.name!r} takes{hint}."
        )
    labels = names(x)
    check_batch(labels, tf.nest.flatten(x))
    if at is None:
        declared = keras.tree.flatten(structure) if len(got) > 1 else network.inputs
        check_integers(labels, tf.nest.flatten(x), [i.dtype for i in declared])


def not_floats(network: keras.layers.Layer, x: Any) -> ArgumentError | None:
    """The error of integers that are given where a functional network declares floats."""
    declared = getattr(network, "inputs", None) or []
    for label, given, taken in zip(names(x), tf.nest.flatten(x), declared, strict=False):
        if tf.as_dtype(taken.dtype).is_floating and not given.dtype.is_floating:
            return ArgumentError(
                f"x: got {given.dtype.name} values for input {label}, which have no gradient; "
                f"expected floats; try tf.cast(x, tf.{taken.dtype})."
            )
    return None


def check(x: Any, structure: Any, network: str, path: Path = ()) -> None:
    """Check that x has what a network takes, by key or position at every level.

    Args:
        x: The inputs, a nest.
        structure: The nest that the network takes; None if it does not tell.
        network: The network's name, for messages.
        path: The keys that lead to x.

    Raises:
        ArgumentError: A key is missing or unknown, or there is another number of inputs.
    """
    if structure is None:
        return
    where, expected = f" in input {name(path)}" if path else "", keys_of(structure)
    if not is_container(x):
        raise ArgumentError(
            f"x: got a {type(x).__name__}{where}; expected the inputs {expected} of model "
            f"{network!r}, as a dict or list."
        )
    got = keys_of(x)
    alike = isinstance(x, Mapping) == isinstance(structure, Mapping)
    if not (set(got) == set(expected) if alike else _by_position(x, structure, path)):
        missing = [key for key in expected if key not in got]
        unknown = [key for key in got if key not in expected]
        what = f"no input {missing[0]!r}" if missing else f"an input {unknown[0]!r}"
        if not alike:
            what = f"a {type(x).__name__} of {len(got)}"
        raise ArgumentError(
            f"x: got {what}{where}; expected the inputs {expected} of model {network!r}."
        )
    for key in expected if alike else ():
        if is_container(structure[key]):
            check(x[key], structure[key], network, (*path, key))


def check_batch(names: Sequence[str], tensors: Sequence[Any]) -> None:
    """Check that all inputs have as many examples.

    Args:
        names: What messages call the inputs.
        tensors: The inputs, each with its batch first.

    Raises:
        ArgumentError: They do not.
    """
    first = tensors[0].shape[0]
    for label, tensor in zip(names, tensors, strict=True):
        if None not in (first, tensor.shape[0]) and tensor.shape[0] != first:
            raise ArgumentError(
                f"x: input {label}: got {tensor.shape[0]} examples; expected {first}, as in "
                f"input {names[0]}."
            )


def check_integers(names: Sequence[str], tensors: Sequence[Any], dtypes: Sequence[Any]) -> None:
    """Check that no floats are given where a network takes integers, which have no gradient.

    Args:
        names: What messages call the inputs.
        tensors: The inputs.
        dtypes: What the network takes.

    Raises:
        ArgumentError: Floats are given.
    """
    for label, tensor, expected in zip(names, tensors, map(tf.as_dtype, dtypes), strict=True):
        got = tf.as_dtype(getattr(tensor, "dtype", tf.float32))
        if got.is_floating and not expected.is_floating:
            where = f" for input {label}" if label else ""
            raise ArgumentError(
                f"x: got {got.name} values{where}; expected {expected.name}, such as token ids; "
                f"try tf.cast(x, tf.{expected.name})."
            )


def as_declared(network: keras.layers.Layer, x: Any) -> Any:
    """The inputs, floats cast where a functional network takes integers, as Keras casts them.

    Args:
        network: The network.
        x: A nest of tensors or arrays, which the network takes.
    """
    declared = keras.tree.flatten(getattr(network, "inputs", None) or [])
    flat = tf.nest.flatten(x)
    if len(declared) != len(flat) or all(tf.as_dtype(i.dtype).is_floating for i in declared):
        return x
    structure = keras_private.input_structure(network)
    if len(flat) > 1:
        declared = keras.tree.flatten(structure)
    if isinstance(x, Mapping) and not isinstance(structure, Mapping):
        declared = [i for _, i in sorted((i.name, i) for i in network.inputs)]
    dtypes = [tf.as_dtype(i.dtype) for i in declared]
    cast = [
        tf.cast(t, dtype) if tf.as_dtype(t.dtype).is_floating and dtype.is_integer else t
        for t, dtype in zip(flat, dtypes, strict=True)
    ]
    return tf.nest.pack_sequence_as(x, cast)


def _by_position(x: Any, structure: Any, path: Path) -> bool:
    """Whether Keras takes a list in the place of a flat dict, by the order of the dict's keys."""
    if path or isinstance(x, Mapping) or len(x) != len(structure):
        return False
    return [*structure] == sorted(structure) and not any(map(is_container, structure.values()))


def is_container(part: Any) -> bool:
    """Whether a part of a nest holds further ones."""
    return isinstance(part, Mapping | list | tuple)


def part(structure: Any, key: Any) -> Any:
    """What a network takes at a key or position, of a dict also by position; None if unknown."""
    if isinstance(structure, Mapping):
        if key in structure:
            return structure[key]
        structure = [structure[k] for k in sorted(structure)]
    if isinstance(structure, list | tuple) and isinstance(key, int) and key < len(structure):
        return structure[key]
    return None


def name(path: Path) -> str:
    """What messages call an input: its key, or the keys that lead to it."""
    return "/".join(map(repr, path))


def names(x: Any, path: Path = ()) -> list[str]:
    """What messages call each input of a nest, in the order of `tf.nest.flatten`."""
    if tf.is_tensor(x) or not is_container(x):
        return [name(path)]
    keys = sorted(x) if isinstance(x, Mapping) else keys_of(x)
    return [label for key in keys for label in names(x[key], (*path, key))]
