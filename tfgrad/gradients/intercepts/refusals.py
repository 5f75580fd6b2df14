"""Errors that name the layer, the operation and the reason, where a call cannot be differentiated.

`docs/decomposition.md` lists what is refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ModelError
from tfgrad.gradients.intercepts.call_structure import Call
from tfgrad.gradients.intercepts.tangents import differentiable, transposed
from tfgrad.internal import call_hooks
from tfgrad.internal.keras_private import flatten_layers, without_call_information
from tfgrad.second_order.operations import ABSENT, SILENT

# What TensorFlow raises for a call that forward mode, or a tape, cannot differentiate.
NOT_DIFFERENTIABLE = (
    *(tf.errors.OpError, LookupError, TypeError, ValueError, NotImplementedError, RuntimeError),
)
_ABSENT = re.compile(r"has no entry for: (\w+)|op type: (\w+)")
_REASON = re.compile(r"(\w+): (TensorFlow .*|its gradient .*)")
_WRITE = "write it with TensorFlow operations that have a derivative"
FLOAT8 = "float8 layers of Keras have no gradient with respect to their inputs in eager mode"


def refusal(path: Iterable[str], call: Call, error: Exception) -> Exception:
    """The error for a call whose Jacobian-vector product raised one.

    Args:
        path: Names of the layers in whose calls it was made, from the outermost on, and its own.
        call: The call; made here once more, to find the layer inside it that is at fault.
        error: What was raised.
    """
    fault = _Fault()
    with call_hooks.handled(fault):
        try:
            call.run()
        except NOT_DIFFERENTIABLE:
            if fault.error is None:
                raise  # an error of the call itself
    if fault.error is not None:
        return _error((*path, *fault.names), fault.layer_at_fault, fault.error)
    return _error(path, call.operation, error)


def of_layer(path: Iterable[str], layer: Any, problem: str, advice: str) -> Exception:
    """The error for a layer: "its intercept needs …, and `problem`; try: `advice`"."""
    name = "/".join(path) or layer.name
    return _named(
        name, layer, f"its intercept needs a Jacobian-vector product, and {problem}", advice
    )


def _named(name: str, layer: Any, problem: str, advice: str) -> Exception:
    kind = type(layer).__name__
    return without_call_information(
        ModelError(f"layer {name!r} ({kind}): {problem}; try: {advice}.")
    )


def float8(path: Iterable[str], layer: Any) -> Exception:
    """The error for a layer quantised to float8."""
    name = "/".join(path) or layer.name
    return _named(name, layer, FLOAT8, 'quantise to "int8" or "int4", or take the float model')


def _error(path: Iterable[str], layer: Any, error: Exception) -> Exception:
    reason, advice = _explained(str(error))
    if reason is None:
        first = (str(error).strip().splitlines() or [""])[0]
        reason = f"{type(error).__name__}: {first}"
    return of_layer(path, layer, f"it cannot be differentiated ({reason})", advice)


def _explained(text: str) -> tuple[str | None, str]:
    """(reason, advice) for the text of an error; no reason if it is of no known kind."""
    if found := _ABSENT.search(text):
        kind = found[1] or found[2]
        advice = ABSENT.get(kind) or SILENT.get(kind)
        return f"TensorFlow defines no derivative of {kind}", advice or _WRITE
    if found := _REASON.search(text):
        return found[0], _WRITE
    if "recompute_grad" in text:
        return (
            "keras.remat and tf.recompute_grad repeat a call in the backward pass and define no "
            "second derivative",
            "build the layer without them",
        )
    return None, f"{_WRITE}, or use a layer of Keras whose intercept is known"


class _Fault(call_hooks.Handler):
    """Transposes every call by itself; the innermost that fails first is at fault."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.layer_at_fault: keras.layers.Layer | None = None
        self.names: tuple[str, ...] = ()
        self._running: list[str] = []

    def layer(
        self,
        layer: keras.layers.Layer,
        proceed: call_hooks.Proceed,
        args: call_hooks.Args,
        kwargs: call_hooks.Kwargs,
    ) -> Any:
        """Around a call inside the call that failed."""
        if self.error is not None or call_hooks.is_symbolic(args, kwargs):
            return proceed(*args, **kwargs)
        self._running.append(layer.name)
        try:
            return transposed(lambda: proceed(*args, **kwargs), differentiable((args, kwargs)))[0]
        except NOT_DIFFERENTIABLE as error:
            if self.error is None:
                self.error, self.layer_at_fault, self.names = error, layer, tuple(self._running)
            raise
        finally:
            self._running.pop()


@contextlib.contextmanager
def without_float8(network: keras.layers.Layer) -> Iterator[None]:
    """A context that names the layer whose gradient Keras defines in graphs alone."""
    try:
        yield
    except ValueError as error:
        for layer in flatten_layers(network):
            if getattr(layer, "quantization_mode", None) == "float8":
                raise float8([], layer) from error
        raise
