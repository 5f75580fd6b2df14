"""Running a network's half-precision layers in float32 for one pass."""

import contextlib
import threading

from tfgrad.internal.keras_private import flatten_layers

_lock = threading.RLock()


def half_precision_layers(network):
    """The layers of a network that compute in float16 or bfloat16."""
    return [
        layer for layer in flatten_layers(network) if layer.compute_dtype in ("float16", "bfloat16")
    ]


@contextlib.contextmanager
def computing_in_float32(network):
    """A context in which they compute in float32; one thread at a time."""
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
