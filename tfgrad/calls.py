"""Recording what chosen layers put out while a model runs.

Functional, Sequential, nested and subclassed models all run a layer through `Layer.__call__`, and
a layer may be called more than once, so calls are recorded, not layers. The hook sits in the class
only while somebody records, and acts only in the thread that does: replicas of a strategy trace
in threads of their own.
"""

import contextlib
import contextvars
import difflib
import threading

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError

_active: contextvars.ContextVar = contextvars.ContextVar("tfgrad_recorder", default=None)
_lock = threading.Lock()
_recorders = 0
_original_call = None


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


def flatten(network):
    """Every layer of a network, nested ones included, in the order Keras keeps them."""
    return [item for item in network._flatten_layers() if item is not network]


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
    outputs: dict = {}
    token = _active.set((frozenset(names), outputs))
    _install()
    try:
        yield outputs
    finally:
        _uninstall()
        _active.reset(token)


def _install():
    global _recorders, _original_call
    with _lock:
        _recorders += 1
        if _recorders == 1:
            _original_call = original = keras.layers.Layer.__call__

            def call(layer, *args, **kwargs):
                output = original(layer, *args, **kwargs)
                recorder = _active.get()
                if recorder is None or layer.name not in recorder[0]:
                    return output
                output = tf.nest.map_structure(tf.identity, output)
                name, calls = layer.name, recorder[1]
                repeats = sum(1 for key in calls if key.split(":")[0] == name)
                calls[f"{name}:{repeats}" if repeats else name] = output
                return output

            keras.layers.Layer.__call__ = call


def _uninstall():
    global _recorders
    with _lock:
        _recorders -= 1
        if _recorders == 0:
            keras.layers.Layer.__call__ = _original_call
