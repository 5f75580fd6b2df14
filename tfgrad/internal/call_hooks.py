"""Hooks around every layer and operation call that a model makes while it runs.

Functional, Sequential, nested and subclassed models all run a layer through `Layer.__call__`, and
an operation that stands in a functional graph without a layer (`x + y`, `keras.ops.relu`) through
`Operation.__call__`. A layer may be called more than once, so calls are recorded, not layers. Both
methods are replaced only while a handler is active, and the replacement acts only in the thread
that activated it: replicas of a strategy trace in threads of their own.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import difflib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.internal.keras_private import flatten_layers, with_mask_of

Proceed = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Handler:
    """What is done at every call; the methods of this base class only make the call.

    `proceed(*args, **kwargs)` makes the call, perhaps through other handlers. A layer's call passes
    `layer` with the arguments as the caller gave them and then, inside it, `operation` with the
    arguments that the layer's own `call` gets, cast to its compute dtype.
    """

    def layer(self, layer: keras.layers.Layer, proceed: Proceed, args: Args, kwargs: Kwargs) -> Any:
        """Around `Layer.__call__`."""
        return proceed(*args, **kwargs)

    def operation(
        self, operation: keras.Operation, proceed: Proceed, args: Args, kwargs: Kwargs
    ) -> Any:
        """Around `Operation.__call__`: bare operations, and layers a second time."""
        return proceed(*args, **kwargs)

    def checkpoint(self) -> Callable[[], None]:
        """A function that drops what the handler has recorded since; see `checkpoint`."""
        return lambda: None


_handlers: contextvars.ContextVar[tuple[Handler, ...]] = contextvars.ContextVar(
    "tfgrad_handlers", default=()
)
_lock = threading.Lock()
_listeners = 0
_originals: dict[type, Any] = {}
_H = TypeVar("_H", bound=Handler)


@contextlib.contextmanager
def handled(handler: _H) -> Iterator[_H]:
    """Call a `Handler` around the calls of this thread; the last one added is the outermost."""
    token = _handlers.set((*_handlers.get(), handler))
    _install()
    try:
        yield handler
    finally:
        _uninstall()
        _handlers.reset(token)


def checkpoint() -> Callable[[], None]:
    """A function that makes every handler of this thread drop what it has recorded since.

    For a call that fails half-way and is made again, so that no handler counts the calls inside it
    twice.
    """
    undo = [handler.checkpoint() for handler in _handlers.get()]

    def restore() -> None:
        for one in undo:
            one()

    return restore


def check_names(
    network: keras.layers.Layer, names: Iterable[str], argument: str = "layers"
) -> None:
    """Raise ArgumentError for the first of `names` that is no layer of the network."""
    known = [layer.name for layer in flatten(network)]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {known}."
            raise ArgumentError(
                f"{argument}: got {name!r}; network {network.name!r} has no layer named {name!r}; "
                f"{hint}"
            )


def layer_of(call: str) -> str:
    """The name of a call's layer: `conv` of `conv` and of its second call `conv:1`."""
    name, colon, number = call.rpartition(":")
    return name if colon and number.isdecimal() else call


def flatten(network: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Every layer of a network, nested ones included, in the order Keras keeps them."""
    return [item for item in flatten_layers(network) if item is not network]


@contextlib.contextmanager
def recorded_outputs(names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Record the outputs of the layers called `names` in this thread.

    Yields:
        A dict {call name: output}, in call order; a layer called again appears as name:1, name:2.
        Each output is a separate copy, so that a gradient with respect to it is a gradient with
        respect to this call even where a layer returns its input unchanged.
    """
    if not names:
        yield {}
        return
    with handled(_Outputs(names)) as recorder:
        yield recorder.outputs


class CallNames:
    """Names of calls: the layer's own, and name:1, name:2 for further calls."""

    def __init__(self) -> None:
        self._seen: collections.Counter[str] = collections.Counter()

    def next(self, name: str) -> str:
        """The name of one more call."""
        repeats = self._seen[name]
        self._seen[name] += 1
        return f"{name}:{repeats}" if repeats else name

    def checkpoint(self) -> Callable[[], None]:
        """A function that restores the present counts."""
        seen = self._seen.copy()

        def restore() -> None:
            self._seen = seen.copy()

        return restore


class _Outputs(Handler):
    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self.outputs: dict[str, Any] = {}
        self._calls = CallNames()

    def layer(self, layer: keras.layers.Layer, proceed: Proceed, args: Args, kwargs: Kwargs) -> Any:
        output = proceed(*args, **kwargs)
        if layer.name in self.names and not is_symbolic(args, kwargs):
            output = tf.nest.map_structure(copy, output)
            self.outputs[self._calls.next(layer.name)] = output
        return output

    def checkpoint(self) -> Callable[[], None]:
        restore_names, kept = self._calls.checkpoint(), dict(self.outputs)

        def restore() -> None:
            restore_names()
            restore_dict(self.outputs, kept)

        return restore


def restore_dict(table: dict[Any, Any], kept: dict[Any, Any]) -> None:
    """Give a dict, which its readers hold, the entries it had."""
    table.clear()
    table.update(kept)


def is_symbolic(args: Any, kwargs: Any) -> bool:
    """Whether a call only builds a model, as Keras does when it first meets the inputs."""
    return any(isinstance(a, keras.KerasTensor) for a in tf.nest.flatten((args, kwargs)))


def current_graph() -> Any:
    """The graph being built in this thread; None while running eagerly."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def is_elsewhere(graph: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call is symbolic, or made in another graph: a loop's body or a `tf.function`."""
    return current_graph() is not graph or is_symbolic(args, kwargs)


def copy(tensor: Any) -> tf.Tensor:
    """The same value as a separate tensor, with Keras's mask if it carries one."""
    return with_mask_of(tf.identity(tensor), tensor)


def bare(layer: keras.layers.Layer, **replaced: Any) -> Any:
    """The layer with some attributes replaced, for `type(layer).call(bare(layer, …), …)`.

    The layer itself does not change, so other threads do not notice.
    """
    return _Bare(layer, replaced)


def without_activation(layer: keras.layers.Layer) -> Any:
    """`type(layer).call(without_activation(layer), x)` is the layer's pre-activation at x."""
    return bare(layer, activation=None)


class _Bare:
    def __init__(self, layer: keras.layers.Layer, replaced: dict[str, Any]) -> None:
        self.__dict__.update(replaced, _layer=layer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def _hook(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        proceed = functools.partial(original, operation)
        for handler in _handlers.get():
            around = getattr(handler, kind)
            proceed = functools.partial(_around, around, operation, proceed)
        return proceed(*args, **kwargs)

    return call


def _around(
    handler: Callable[..., Any],
    operation: keras.Operation,
    proceed: Proceed,
    *args: Any,
    **kwargs: Any,
) -> Any:
    return handler(operation, proceed, args, kwargs)


def _install() -> None:
    global _listeners
    with _lock:
        _listeners += 1
        if _listeners == 1:
            for kind, owner in (("layer", keras.layers.Layer), ("operation", keras.Operation)):
                _originals[owner] = owner.__call__
                setattr(owner, "__call__", _hook(kind, owner.__call__))  # noqa: B010


def _uninstall() -> None:
    global _listeners
    with _lock:
        _listeners -= 1
        if _listeners == 0:
            for owner, original in _originals.items():
                setattr(owner, "__call__", original)  # noqa: B010
            _originals.clear()
