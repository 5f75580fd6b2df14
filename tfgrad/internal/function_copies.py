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
from collections.abc import Hashable, Iterator
from typing import Any

import tensorflow as tf

_Function: Any = type(tf.function(lambda: None))
_KERAS = "keras."
_KEPT = "_tfgrad_copies"  # attribute of a function: its copies, by the variant


def _is_own(function: Any) -> bool:
    """Whether a `tf.function` is traced from code that is not Keras's."""
    return type(function) is _Function and not function.python_function.__module__.startswith(
        _KERAS
    )


def fresh(function: Any) -> Any:
    """A copy of a `tf.function` that has no traces; anything else as it is."""
    return function._clone(None) if type(function) is _Function else function


def forget_traces(function: Any) -> None:
    """Let a `tf.function` trace anew what it is called with next."""
    with function._lock:
        vars(function).pop(_KEPT, None)
        function._created_variables = None
        function._variable_creation_config = function._no_variable_creation_config = None
        function._function_cache = type(function._function_cache)()


class Copies:
    """The copies in use in a scope, by the identity of their originals, which are kept alive."""

    def __init__(self, of_keras: bool) -> None:
        self._of_keras = of_keras
        self._made: dict[Hashable, tuple[Any, Any]] = {}

    def of(self, function: Any) -> Any:
        """The function to be called in place of this one."""
        # Functions out of a SavedModel are of a subclass: they have nothing to be traced from.
        if not (_is_own(function) or (self._of_keras and type(function) is _Function)):
            return function
        key = id(function), _variant.get()
        if key not in self._made:
            self._made[key] = function, fresh(function)
        return self._made[key][1]

    def originals(self) -> list[Any]:
        """The functions that were called, without Keras's own."""
        functions = [original for original, _ in self._made.values()]
        return [f for f in functions if not f.python_function.__module__.startswith(_KERAS)]


_copies: contextvars.ContextVar[Copies | None] = contextvars.ContextVar(
    "tfgrad_function_copies", default=None
)
# The kept copies in use, None without; what they are traced with differs between variants.
_variant: contextvars.ContextVar[Hashable] = contextvars.ContextVar(
    "tfgrad_function_variant", default=None
)
_inlined: contextvars.ContextVar[bool] = contextvars.ContextVar("tfgrad_inlined", default=False)
_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("tfgrad_inside", default=False)
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


@contextlib.contextmanager
def kept_copies(variant: Hashable) -> Iterator[None]:
    """A scope in which calls of a `tf.function` in this thread call a copy that is kept.

    There is one copy per function and variant. It lives as long as its function and is traced as
    any other, so that traces made with other code inside never serve each other's calls. Inside
    `copied_functions`, the copies of that scope are called, one per variant, too.

    Args:
        variant: What the traces depend on besides their arguments.
    """
    token = _variant.set(variant)
    _install()
    try:
        yield
    finally:
        _uninstall()
        _variant.reset(token)


@contextlib.contextmanager
def inlined_functions() -> Iterator[None]:
    """A scope in which a `tf.function` called eagerly runs as the Python that it is made of.

    TensorFlow's forward mode cannot follow the call of a function that a tape differentiates, too.
    Keras's own functions stay as they are.
    """
    token = _inlined.set(True)
    _install()
    try:
        yield
    finally:
        _uninstall()
        _inlined.reset(token)


def is_inside_inlined() -> bool:
    """Whether this code runs as part of a function in `inlined_functions`."""
    return _inside.get()


def _kept(function: Any, variant: Hashable) -> Any:
    if not _is_own(function):
        return function
    copies = vars(function).setdefault(_KEPT, {})
    if variant not in copies:
        copies.setdefault(variant, fresh(function))
    return copies[variant]


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
        if _inlined.get() and tf.executing_eagerly() and _is_own(function):
            token = _inside.set(True)
            try:
                return function.python_function(*args, **kwargs)
            finally:
                _inside.reset(token)
        copies = _copies.get()
        variant = _variant.get()
        if copies is not None:
            function = copies.of(function)
        elif variant is not None:
            function = _kept(function, variant)
        return original(function, *args, **kwargs)

    return call
