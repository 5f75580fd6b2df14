"""Running a network's half-precision layers in float32 for one pass."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import keras

from tfgrad.internal.keras_private import flatten_layers

_lock = threading.RLock()


def half_precision_layers(network: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers of a network that compute in float16 or bfloat16."""
    return [
        layer for layer in flatten_layers(network) if layer.compute_dtype in ("float16", "bfloat16")
    ]


@contextlib.contextmanager
def computing_in_float32(network: keras.layers.Layer) -> Iterator[None]:
    """A context in which these layers compute in float32; one thread at a time."""
    with _lock:
        layers = half_precision_layers(network)
        policies = [layer.dtype_policy for layer in layers]
        for layer in layers:
            layer.dtype_policy = "float32"
        try:
            yield
        finally:
            for layer, policy in zip(layers, policies, strict=True):
                layer.dtype_policy = policy
