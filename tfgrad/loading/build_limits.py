"""Bounds on memory and time while Keras builds a model from a config that somebody else wrote.

A config of a kilobyte can declare weights of terabytes. What it declares is compared with what the
weights file holds, weight by weight, before a value of it is computed.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ModelError
from tfgrad.internal.call_hooks import Args, Handler, Kwargs, Proceed, handled
from tfgrad.internal.keras_private import checked_variables, in_metric, without_call_information
from tfgrad.loading.h5_checks import Held
from tfgrad.loading.rejection import LEAVE, rejection, shown

SLACK = 16 << 20  # bytes of state that no file need hold: seeds, counters
METRICS = 256 << 20  # bytes of the state of all metrics, of which no file holds any
# The weights of layers are in the file; up to four slots of an optimizer for each may not be.
TIMES, TIMES_COMPILED = 2, 6
MAX_UNROLLED = 2_000  # steps of a recurrent layer that builds its operations once for each step
LIMIT_SECONDS = 300.0


@contextlib.contextmanager
def limited(path: str, held: Held, compile: bool, limit_seconds: float) -> Iterator[None]:
    """Stop the building of a model that becomes larger than its file, or takes too long.

    Args:
        path: The model file, for the error.
        held: What the arrays in it hold.
        compile: Whether the state of an optimizer is built, too.
        limit_seconds: The seconds that building may take, looked at at every call of a layer.

    Raises:
        ModelError: The limits were passed, or the file holds complex values for real weights.
    """
    limits = _Limits(path, held, compile, limit_seconds)
    try:
        with handled(limits), checked_variables(limits.variable):
            yield
    except Exception as error:
        if limits.rejected is not None and limits.rejected is not error:
            raise limits.rejected from error  # Keras has reworded it
        raise
    if limits.rejected is not None:  # Keras has gone on without what failed
        raise limits.rejected
    if len(held.complex) > limits.complex:
        raise rejection(
            path,
            f"complex values for a real weight, {shown(held.complex[0])}",
            "real numbers",
            "save the real part, or make the weight with dtype='complex64'",
        )


class _Limits(Handler):
    def __init__(self, path: str, held: Held, compile: bool, seconds: float) -> None:
        self.path, self.held, self.seconds = path, held.bytes, seconds
        self.allowed = (TIMES_COMPILED if compile else TIMES) * held.bytes + SLACK
        self.end = time.monotonic() + seconds
        self.declared = self.metrics = 0  # bytes
        self.complex = 0  # weights
        self.rejected: ModelError | None = None

    def layer(self, layer: keras.layers.Layer, proceed: Proceed, args: Args, kwargs: Kwargs) -> Any:
        if getattr(layer, "unroll", False) is True:
            for value in tf.nest.flatten((args, kwargs)):
                shape = tuple(getattr(value, "shape", ()))
                if len(shape) > 1 and isinstance(shape[1], int) and shape[1] > MAX_UNROLLED:
                    raise self._stop(
                        f"the recurrent layer {shown(layer.name)} unrolled over {shape[1]} steps",
                        f"at most {MAX_UNROLLED}",
                        "save it with unroll=False",
                    )
        return proceed(*args, **kwargs)

    def operation(
        self, operation: keras.Operation, proceed: Proceed, args: Args, kwargs: Kwargs
    ) -> Any:
        if time.monotonic() > self.end:
            raise self._stop(
                f"a model whose building takes more than {self.seconds:g} s",
                "one that is built in this time",
                f"{LEAVE}, or raise limit_seconds= if you know who made it",
            )
        return proceed(*args, **kwargs)

    def variable(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        size = math.prod(shape) * max(1, tf.as_dtype(dtype).size)
        if in_metric():
            self.metrics += size
            if self.metrics > METRICS:
                raise self._stop(
                    f"metrics whose state takes {_size(self.metrics)}, with {shown(name)} of shape "
                    f"{shown(shape)}",
                    f"at most {_size(METRICS)}",
                    "load with compile=False",
                )
            return
        self.complex += tf.as_dtype(dtype).is_complex
        self.declared += size
        if self.declared > self.allowed:
            raise self._stop(
                f"a config that declares the weight {shown(name)} of shape {shown(shape)}, with "
                f"which the weights take {_size(self.declared)}, where the file holds "
                f"{_size(self.held)}",
                "weights that the file holds",
                f"{LEAVE}, or build the model in Python and save it again",
            )

    def _stop(self, got: str, expected: str, advice: str) -> Exception:
        self.rejected = rejection(self.path, got, expected, advice)
        return without_call_information(self.rejected)


def _size(count: int) -> str:
    return f"{count} bytes" if count < 1 << 20 else f"{count / 2**20:,.0f} MiB"
