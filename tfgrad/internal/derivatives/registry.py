"""The registry of TensorFlow's gradients, with more and with corrected entries inside a context.

Outside the contexts, and in other threads, TensorFlow behaves as without this package.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry, ops

Gradient = Callable[..., list[Any]]

_active: contextvars.ContextVar[bool] = contextvars.ContextVar("tfgrad_derivatives", default=False)
_corrected: contextvars.ContextVar[bool] = contextvars.ContextVar("tfgrad_right", default=False)
_strict: contextvars.ContextVar[bool] = contextvars.ContextVar("tfgrad_strict", default=False)


@contextlib.contextmanager
def additional_derivatives(strict: bool = False) -> Iterator[None]:
    """A context in which, in this thread, more operations have derivatives, and all right ones.

    Args:
        strict: Whether an operation whose gradient TensorFlow drops or approximates without an
            error raises LookupError when it is differentiated.
    """
    active, kept = _active.set(True), _strict.set(strict)
    try:
        with corrected_derivatives():
            yield
    finally:
        _active.reset(active)
        _strict.reset(kept)


@contextlib.contextmanager
def corrected_derivatives(active: bool = True) -> Iterator[None]:
    """A context in which, in this thread, first derivatives that TensorFlow has wrong are right.

    It must enclose the forward pass, too: a call of a `tf.function` under a tape traces the
    gradient with the call, and keeps it.

    Args:
        active: False for a context in which they are TensorFlow's again.
    """
    token = _corrected.set(active)
    try:
        yield
    finally:
        _corrected.reset(token)


def are_corrected() -> bool:
    """Whether this thread is inside `corrected_derivatives`."""
    return _corrected.get()


def install(
    gradients: Mapping[str, Gradient],
    corrected: Mapping[str, Gradient],
    refused: Mapping[str, str],
) -> frozenset[str]:
    """Register gradients for the contexts, and what raises in a strict one.

    Args:
        gradients: Gradient functions that TensorFlow lacks, by the operation's type.
        corrected: Gradient functions that TensorFlow has wrong, by the operation's type; one
            that returns NotImplemented leaves a call to TensorFlow.
        refused: Reasons by the operation's type.

    Returns:
        The operations that have derivatives inside the context: none if TensorFlow keeps its
        registry elsewhere, and a Jacobian-vector product through them is then refused.
    """
    if not hasattr(ops.gradient_registry, "_registry"):
        return frozenset()
    for kind, gradient in gradients.items():
        _register(kind, functools.partial(_in_context, _active, gradient))
    for kind, gradient in corrected.items():
        _register(kind, functools.partial(_in_context, _corrected, gradient))
    for kind, reason in refused.items():
        _register(kind, functools.partial(_refused, kind, reason))
    return frozenset(gradients)


def linear(
    pull: Callable[[tf.Tensor], tf.Tensor],
    push: Callable[[tf.Tensor], tf.Tensor],
    upstream: tf.Tensor,
) -> tf.Tensor:
    """Aᵀ u = `pull`(u), whose derivative along v is A v = `push`(v)."""

    @tf.custom_gradient
    def pulled(u: tf.Tensor) -> Any:
        return pull(u), push

    return pulled(upstream)


def options(op: Any, *names: str) -> dict[str, Any]:
    """Attributes of an operation, as arguments of a call of it."""
    values = {name: op.get_attr(name) for name in names}
    return {n: v.decode() if isinstance(v, bytes) else v for n, v in values.items()}


def _register(kind: str, replacement: Callable[[Gradient], Gradient]) -> None:
    registry = ops.gradient_registry
    try:
        theirs = registry.lookup(kind) or _nothing(kind)
    except LookupError:
        theirs = _absent(kind)
    registry._registry.pop(kind, None)
    registry.register(replacement(theirs), kind)


def _nothing(kind: str) -> Gradient:
    """The gradient of an operation that is registered as not differentiable."""
    count = len(op_def_registry.get(kind).input_arg)
    return lambda op, *upstream: [None] * count


def _absent(kind: str) -> Gradient:
    def gradient(op: Any, *upstream: Any) -> list[Any]:
        raise LookupError(f"gradient registry has no entry for: {kind}")

    return gradient


def _in_context(active: contextvars.ContextVar[bool], ours: Gradient, theirs: Gradient) -> Gradient:
    def gradient(op: Any, *upstream: Any) -> list[Any]:
        found = ours(op, *upstream) if active.get() else NotImplemented
        return theirs(op, *upstream) if found is NotImplemented else found

    return gradient


def _refused(kind: str, reason: str, theirs: Gradient) -> Gradient:
    def gradient(op: Any, *upstream: Any) -> list[Any]:
        if _strict.get():
            raise LookupError(f"{kind}: {reason}")
        return theirs(op, *upstream)

    return gradient
