"""Standing between a model and the calls it makes while it runs.

Functional, Sequential, nested and subclassed models all run a layer through `Layer.__call__`, and
an operation that stands in a functional graph without a layer (`x + y`, `keras.ops.relu`) through
`Operation.__call__`. A layer may be called more than once, so calls are recorded, not layers. The
hook sits in these two classes only while somebody listens, and acts only in the thread that does:
replicas of a strategy trace in threads of their own.
"""

import collections
import contextlib
import contextvars
import difflib
import functools
import threading
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.internal.keras_private import flatten_layers, with_mask_of

_handlers: contextvars.ContextVar[tuple] = contextvars.ContextVar("tfgrad_handlers", default=())
_lock = threading.Lock()
_listeners = 0
_originals: dict[type, Any] = {}


class Handler:
    """What is done at every call; these do nothing.

    `proceed(*args, **kwargs)` makes the call, perhaps through other handlers. A layer's call passes
    `layer` with the arguments as the caller gave them and then, inside it, `operation` with the
    arguments that the layer's own `call` gets, cast to its compute dtype.
    """

    def layer(self, layer, proceed, args, kwargs):
        """Around `Layer.__call__`."""
        return proceed(*args, **kwargs)

    def operation(self, operation, proceed, args, kwargs):
        """Around `Operation.__call__`: bare operations, and layers a second time."""
        return proceed(*args, **kwargs)


@contextlib.contextmanager
def handled(handler):
    """Let a `Handler` stand around the calls of this thread; the last to come is the outermost."""
    token = _handlers.set((*_handlers.get(), handler))
    _install()
    try:
        yield handler
    finally:
        _uninstall()
        _handlers.reset(token)


def check_names(network, names) -> None:
    """Raise ArgumentError naming the first of `names` that is no layer of the network."""
    known = [layer.name for layer in flatten(network)]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {known}."
            raise ArgumentError(
                f"layers: network {network.name!r} has no layer named {name!r}; {hint}"
            )


def layer_of(call):
    """The name of the layer that a call is of: `conv` of `conv` and of its second call `conv:1`."""
    name, colon, number = call.rpartition(":")
    return name if colon and number.isdecimal() else call


def flatten(network):
    """Every layer of a network, nested ones included, in the order Keras keeps them."""
    return [item for item in flatten_layers(network) if item is not network]


@contextlib.contextmanager
def recorded(names):
    """Record the outputs of the layers called `names` in this thread.

    Yields:
        A dict {call name: output}, in call order; a layer called again appears as name:1, name:2.
        Each output is a copy of its own, so that a gradient with respect to it is a gradient with
        respect to this call even where a layer hands its input through.
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

    def copy(self) -> "CallNames":
        """The same count, to go back to."""
        twin = CallNames()
        twin._seen = self._seen.copy()
        return twin


class _Outputs(Handler):
    def __init__(self, names):
        self.names, self.outputs, self._calls = frozenset(names), {}, CallNames()

    def layer(self, layer, proceed, args, kwargs):
        output = proceed(*args, **kwargs)
        if layer.name in self.names and not is_symbolic(args, kwargs):
            output = tf.nest.map_structure(copy, output)
            self.outputs[self._calls.next(layer.name)] = output
        return output


def is_symbolic(args, kwargs):
    """Whether a call only builds a model, as Keras does when it first meets the inputs."""
    return any(isinstance(a, keras.KerasTensor) for a in tf.nest.flatten((args, kwargs)))


def copy(tensor):
    """The same value as a tensor of its own, with Keras's mask if it carries one."""
    return with_mask_of(tf.identity(tensor), tensor)


def bare(layer, **replaced):
    """The layer with some attributes replaced, for `type(layer).call(bare(layer, …), …)`.

    The layer itself does not change, so other threads do not notice.
    """
    return _Bare(layer, replaced)


def without_activation(layer):
    """`type(layer).call(without_activation(layer), x)` is the layer's pre-activation at x."""
    return bare(layer, activation=None)


class _Bare:
    def __init__(self, layer, replaced):
        self.__dict__.update(replaced, _layer=layer)

    def __getattr__(self, name):
        return getattr(self._layer, name)


def _hook(kind, original):
    @functools.wraps(original)
    def call(operation, *args, **kwargs):
        proceed = functools.partial(original, operation)
        for handler in _handlers.get():
            around = getattr(handler, kind)
            proceed = functools.partial(_around, around, operation, proceed)
        return proceed(*args, **kwargs)

    return call


def _around(handler, operation, proceed, *args, **kwargs):
    return handler(operation, proceed, args, kwargs)


def _install():
    global _listeners
    with _lock:
        _listeners += 1
        if _listeners == 1:
            for kind, owner in (("layer", keras.layers.Layer), ("operation", keras.Operation)):
                _originals[owner] = owner.__call__
                setattr(owner, "__call__", _hook(kind, owner.__call__))  # noqa: B010


def _uninstall():
    global _listeners
    with _lock:
        _listeners -= 1
        if _listeners == 0:
            for owner, original in _originals.items():
                setattr(owner, "__call__", original)  # noqa: B010
            _originals.clear()
