"""What a verdict depends on: the layers of a network and their attributes, as they are now."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import Any, Literal

import keras

from tfgrad.internal.keras_private import flatten_layers

# Attributes that a call changes and that no call of the layer reads.
_IGNORED = frozenset(
    {
        *("_inbound_nodes", "_outbound_nodes", "_losses", "_loss_ids", "_losses_override"),
        *("_metrics", "_tracker", "_tracked", "_parent_path", "_path", "_called", "_lock"),
        *("_dropout_mask", "_recurrent_dropout_mask"),
    }
)
# Those of a model that `compile`, `fit` and `predict` change, and its graph seen another way.
_IGNORED_OF_MODELS = _IGNORED | {
    *("_nodes", "_nodes_by_depth", "_operations_by_depth", "_saved_model_inputs_spec"),
    *("train_function", "test_function", "predict_function", "_eval_epoch_iterator"),
    *("stop_training", "stop_evaluating", "stop_predicting", "history", "_jit_compile"),
    *("compiled", "optimizer", "loss", "_loss_tracker", "_compile_loss", "_compile_metrics"),
    *("_compile_config", "_compiled_trainable_state", "steps_per_execution"),
    *("run_eagerly", "_run_eagerly"),
}
_IGNORED_PREFIX = "_self_"  # TensorFlow's tracking of checkpoints
_FOREIGN = ("keras.", "tensorflow.", "numpy.", "builtins", "tf_keras.")
_DEPTH = 4
_PLAIN_KINDS = (bool, int, float, complex, str, bytes, type(None))
_PLAIN = frozenset(_PLAIN_KINDS)
_Kind = Literal["plain", "operation", "object", "sequence", "mapping", "set", "own"]


def fingerprint(network: keras.layers.Layer) -> tuple[Any, ...]:
    """A hashable value that changes when a layer, an option or a function of the network does.

    Covers every attribute of every layer: `trainable`, activations, dtype policies, layers in
    lists and dicts, options of the user's own classes, methods replaced on an instance. Objects
    are compared by identity and not kept alive. The values of variables do not count.

    Args:
        network: A Keras model or layer.
    """
    return tuple(_of_layer(layer) for layer in flatten_layers(network))


class _Same(weakref.ReferenceType[Any]):
    """A reference that equals those of the same living object only, whatever its `==` does."""

    __slots__ = ("_id",)

    _id: int

    def __new__(cls, value: Any) -> _Same:
        made = super().__new__(cls, value)
        made._id = id(value)
        return made

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, _Same) and self() is not None and self() is other()
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return self._id


def _of_layer(layer: keras.layers.Layer) -> tuple[Any, ...]:
    ignored = _IGNORED_OF_MODELS if isinstance(layer, keras.Model) else _IGNORED
    # `make_safe` changes the class of a layer, and nothing else of it.
    return _token_of(layer), id(type(layer)), tuple(_attributes(vars(layer), _DEPTH, ignored))


def _attributes(
    values: Mapping[str, Any], depth: int, ignored: frozenset[str] = frozenset()
) -> list[Any]:
    tokens = []
    for name, value in values.items():
        if name in ignored or name.startswith(_IGNORED_PREFIX):
            continue
        tokens.append(name)
        tokens.append(value if type(value) in _PLAIN else _token(value, depth))
    return tokens


def _token(value: Any, depth: int) -> Any:
    """What stands for a value in the fingerprint."""
    of_class: Any = type(value)
    kind = _kind(of_class)
    if kind == "plain":
        return value
    if kind == "operation":
        return _token_of(value), id(of_class)
    if kind == "object" or depth == 0:
        return _token_of(value)
    if kind == "sequence":
        return tuple([_token(v, depth - 1) for v in value])
    if kind == "mapping":
        return tuple([(_token(k, 0), _token(v, depth - 1)) for k, v in value.items()])
    if kind == "set":
        return frozenset([_token(v, depth - 1) for v in value])
    # An object of the user's own, whose options a layer may read.
    return _token_of(value), tuple(_attributes(getattr(value, "__dict__", {}), depth - 1))


def _token_of(value: Any) -> Any:
    """A reference to an object, or its number if it takes no weak references."""
    try:
        of_class: Any = type(value)
        return weakref.ref(value) if _is_identity(of_class) else _Same(value)
    except TypeError:
        return id(value)


@functools.lru_cache(maxsize=4096)
def _is_identity(kind: Any) -> bool:
    """Whether `==` of a class is identity, so that built-in references, which use it, will do."""
    return kind.__eq__ is object.__eq__ and kind.__ne__ is object.__ne__


@functools.lru_cache(maxsize=4096)
def _kind(kind: Any) -> _Kind:
    """How values of a class are taken into the fingerprint."""
    if issubclass(kind, _PLAIN_KINDS):
        return "plain"
    if issubclass(kind, (list, tuple)):
        return "sequence"
    if issubclass(kind, Mapping):
        return "mapping"
    if issubclass(kind, (set, frozenset)):
        return "set"
    if issubclass(kind, keras.Operation):
        return "operation"
    foreign = kind.__module__.startswith(_FOREIGN)
    return "object" if foreign else "own"
