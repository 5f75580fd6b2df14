"""Copies of a network's own `tf.function`s, so that an inspection leaves their caches alone.

TensorFlow caches what it traces inside of another trace, too. A trace made while variables must not
change contains no update of them; left in the cache, it would serve the network's later calls, and
the moving statistics of a batch normalisation inside would stand still. Nor would a cached trace
show from which layers' calls its operations come.
"""

import contextlib
import contextvars
import functools
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_Function: Any = type(tf.function(lambda: None))
_KERAS = "keras."


def fresh(function: Any) -> Any:
    """A copy of a `tf.function` that has no traces; anything else as it is."""
    return function._clone(None) if type(function) is _Function else function


def forget_traces(function: Any) -> None:
    """Let a `tf.function` trace anew what it is called with next."""
    with function._lock:
        function._created_variables = None
        function._variable_creation_config = function._no_variable_creation_config = None


class Copies:
    """The copies in use in a scope, by the identity of their originals, which are kept alive."""

    def __init__(self, of_keras: bool) -> None:
        self._of_keras = of_keras
        self._made: dict[int, tuple[Any, Any]] = {}

    def of(self, function: Any) -> Any:
        """The function to be called in place of this one."""
        # Functions out of a SavedModel are of a subclass: they have nothing to be traced from.
        if type(function) is not _Function:
            return function
        if not self._of_keras and function.python_function.__module__.startswith(_KERAS):
            return function
        if id(function) not in self._made:
            self._made[id(function)] = function, fresh(function)
        return self._made[id(function)][1]

    def originals(self) -> list[Any]:
        """The functions that were called, without Keras's own."""
        functions = [original for original, _ in self._made.values()]
        return [f for f in functions if not f.python_function.__module__.startswith(_KERAS)]


_copies: contextvars.ContextVar[Copies | None] = contextvars.ContextVar(
    "tfgrad_function_copies", default=None
)
_lock = threading.Lock()
_users = 0
_original: Any = None


@contextlib.contextmanager
def copied_functions(of_keras: bool = False) -> Iterator[Copies]:
    """A scope in which calls of a `tf.function` in this thread call a copy, traced in the scope.

    The hook is in TensorFlow's class only while a scope is open, and has no effect in other
    threads.

    Args:
        of_keras: Whether Keras's own functions (grouped convolutions on a CPU) are copied, too.
            They hold no state, and to compile them anew takes time.
    """
    copies = Copies(of_keras)
    token = _copies.set(copies)
    _install()
    try:
        yield copies
    finally:
        _uninstall()
        _copies.reset(token)


def _install() -> None:
    global _users, _original
    with _lock:
        _users += 1
        if _users == 1:
            _original = _Function.__call__
            _Function.__call__ = _hook(_original)


def _uninstall() -> None:
    global _users, _original
    with _lock:
        _users -= 1
        if _users == 0:
            _Function.__call__, _original = _original, None


def _hook(original: Any) -> Any:
    @functools.wraps(original)
    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        copies = _copies.get()
        function = function if copies is None else copies.of(function)
        return original(function, *args, **kwargs)

    return call
