"""Layers whose calls run with exchanged functions, changed in place."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import keras

from tfgrad.internal.function_copies import fresh
from tfgrad.second_order.exchange import exchanged

# Of a generated class: (the class that it was made of, whether max-pooling is exchanged).
_MARK = "_tfgrad_safe_call"
_changes = 0


def is_safe(operation: keras.Operation, xla: bool = False) -> bool:
    """Whether an operation's calls run with exchanged functions already.

    Args:
        operation: A layer or bare operation.
        xla: Whether max-pooling must be among them.
    """
    mark = getattr(type(operation), _MARK, None)
    return mark is not None and (mark[1] or not xla)


def make(operation: keras.Operation, xla: bool = False) -> None:
    """Let the calls of an operation run with exchanged functions, from now on.

    Its class becomes a subclass with the same name and module, made for it. `__class__`, which
    Keras reads to save and to clone a layer, is still the original class, so that files do not
    depend on the change. Nothing else of the object changes.

    Args:
        operation: A layer or bare operation.
        xla: Whether max-pooling is exchanged, too.

    Raises:
        TypeError: Python does not allow the change for this class.
    """
    global _changes
    kind: Any
    kind, by_xla = getattr(type(operation), _MARK, (type(operation), False))
    xla = xla or by_xla
    # The property that a made class has shadows the attribute, which has no other setter.
    vars(object)["__class__"].__set__(operation, _subclass(kind, xla))
    own = vars(operation).get("call")
    if own is not None:  # replaced on the object itself
        vars(operation)["call"] = _exchanging(fresh(own), own, xla)
    _changes += 1


def changes() -> int:
    """How many operations have been changed; a function traced before the last one may be old."""
    return _changes


def _exchanging(function: Any, original: Any, xla: bool) -> Any:
    """A function that runs with exchanged functions, with the signature of the original."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        with exchanged(xla):
            return function(*args, **kwargs)

    return call


@functools.cache
def _subclass(kind: Any, xla: bool) -> type:
    # A function that TensorFlow has traced before is traced anew.
    own = fresh(inspect.getattr_static(kind, "call"))
    attributes = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__class__": property(lambda self: kind),
        "__reduce_ex__": lambda self, protocol: _reduced(self, kind, protocol),
        "call": _exchanging(
            lambda self, *args, **kwargs: own.__get__(self, type(self))(*args, **kwargs),
            kind.call,
            xla,
        ),
        _MARK: (kind, xla),
    }
    # Neither the `__init_subclass__` of the user's classes nor the code of a metaclass runs: they
    # may register what they see. Changed bases do not call them.
    base = keras.layers.Layer if issubclass(kind, keras.layers.Layer) else keras.Operation
    made = type.__new__(type(kind), kind.__name__, (base,), attributes)
    try:
        made.__bases__ = (kind,)
    except TypeError:  # objects with `__slots__` have another layout
        made = type.__new__(type(kind), kind.__name__, (kind,), attributes)
    return made


def _reduced(operation: Any, kind: Any, protocol: Any) -> Any:
    """What `pickle` writes: the object as one of the class that the user wrote, as files do."""
    reduced = kind.__reduce_ex__(operation, protocol)
    if not isinstance(reduced, tuple):
        return reduced
    function, arguments, *rest = reduced
    made = type(operation)
    if getattr(function, "__self__", None) is made:  # a class method
        function = getattr(kind, function.__name__)
    return function, tuple(kind if a is made else a for a in arguments), *rest
