"""Functions of TensorFlow exchanged for equal ones with correct second derivatives.

The exchange is in force only inside `exchanged` and only in its thread: a layer's own code then
runs unchanged, and computes the same values, with derivatives of every order. The functions are
replaced where callers look them up (`tf.nn.moments`); Keras's operations call them there, too.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from tfgrad.internal.function_copies import kept_copies
from tfgrad.internal.max_pooling import max_pool
from tfgrad.internal.precision import promoted_to_float32
from tfgrad.layers.normalization import moments
from tfgrad.layers.resizing import resize_axis

_NEAREST = ("nearest", 1)  # by name, or by its number in TensorFlow 1
# How each function is exchanged: (TensorFlow's function, its arguments …) → its result.
_Safe = Callable[..., Any]
# Where a function is looked up: the module, and the name in it.
_Place = tuple[Any, str]


def _moments(
    original: Any,
    x: Any,
    axes: Any,
    shift: Any = None,
    keepdims: bool = False,
    name: str | None = None,
) -> Any:
    x = tf.convert_to_tensor(x)
    axes = tf.get_static_value(axes) if tf.is_tensor(axes) else axes
    if not x.dtype.is_floating or axes is None:
        return original(x, axes, shift, keepdims, name)
    with tf.name_scope(name or "moments"):
        wide = tf.cast(x, tf.float32) if x.dtype == tf.float16 else x  # as TensorFlow computes
        mean, variance = moments(wide, axes, keepdims)
        return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def _resize(
    original: Any,
    images: Any,
    size: Any,
    method: Any = "bilinear",
    preserve_aspect_ratio: bool = False,
    antialias: bool = False,
    name: str | None = None,
) -> Any:
    x = tf.convert_to_tensor(images)
    if not x.dtype.is_floating or x.shape.rank not in (3, 4):
        return original(x, size, method, preserve_aspect_ratio, antialias, name)
    first = x.shape.rank - 3
    if preserve_aspect_ratio:  # TensorFlow computes the size: that of one channel's result
        kept = original(x[..., :1], size, method, True, antialias)
        lengths = [
            n if n is not None else tf.shape(kept)[first + i]
            for i, n in enumerate(kept.shape[first:-1])
        ]
    else:
        static = tf.get_static_value(tf.convert_to_tensor(size))
        lengths = [size[0], size[1]] if static is None else [int(n) for n in static]
    y = promoted_to_float32(x)
    with tf.name_scope(name or "resize"):
        for i, length in enumerate(lengths):
            y = resize_axis(y, first + i, length, method, antialias)
    # TensorFlow resizes to float32; float64 is kept here, which loses no digits.
    return tf.cast(y, x.dtype) if method in _NEAREST else y


def _softsign(original: Any, features: Any, name: str | None = None) -> Any:
    x = tf.convert_to_tensor(features)
    return tf.math.divide(x, 1 + tf.abs(x), name=name)


def _local_response(
    original: Any,
    input: Any,
    depth_radius: Any = 5,
    bias: Any = 1,
    alpha: Any = 1,
    beta: Any = 0.5,
    name: str | None = None,
) -> Any:
    x = tf.convert_to_tensor(input)
    wide = promoted_to_float32(x)
    place = tf.range(tf.shape(x)[-1])
    near = tf.cast(tf.abs(place[:, tf.newaxis] - place) <= int(depth_radius), wide.dtype)
    sums = tf.tensordot(tf.square(wide), near, 1)
    return tf.cast(wide * (bias + alpha * sums) ** -beta, x.dtype)


def _max_pool(
    original: Any,
    input: Any,
    ksize: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = None,
    name: str | None = None,
) -> Any:
    x = tf.convert_to_tensor(input)
    spatial = (x.shape.rank or 0) - 2
    leads = str(data_format or "N").startswith("NC")
    sizes, steps = (_of_axes(n, spatial, leads) for n in (ksize, strides))
    if not x.dtype.is_floating or str(padding) not in ("SAME", "VALID") or None in (sizes, steps):
        arguments = {} if data_format is None else {"data_format": data_format}
        return original(x, ksize, strides, padding, name=name, **arguments)
    return max_pool(x, 2 if leads else 1, sizes, steps, padding == "SAME")


def _max_pool_of_volumes(original: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Of volumes alone: on a CPU, TensorFlow gives the gradient to each of equal entries."""
    x = tf.convert_to_tensor(input)
    if x.shape.rank != 5:
        return original(x, *args, **kwargs)
    return _max_pool(original, x, *args, **kwargs)


def _of_axes(numbers: Any, spatial: int, leads: bool) -> Any:
    """One number per pooled axis; None if the batch or the channels are pooled, too."""
    numbers = [int(n) for n in tf.nest.flatten(numbers)]
    if len(numbers) == 1:
        return numbers * spatial
    if len(numbers) == spatial + 2:
        first = 2 if leads else 1
        pooled, others = numbers[first : first + spatial], numbers[:first]
        others += numbers[first + spatial :]
        return pooled if set(others) == {1} else None
    return numbers if len(numbers) == spatial else None


_ALWAYS: Mapping[_Place, _Safe] = {
    (tf.nn, "moments"): _moments,
    (tf.image, "resize"): _resize,
    (tf.nn, "softsign"): _softsign,
    (tf.nn, "lrn"): _local_response,
    (tf.nn, "local_response_normalization"): _local_response,
    (tf.nn, "max_pool"): _max_pool_of_volumes,
    (tf.nn, "max_pool3d"): _max_pool,
}
_UNDER_XLA: Mapping[_Place, _Safe] = {
    (tf.nn, name): _max_pool for name in ("max_pool", "max_pool1d", "max_pool2d", "max_pool3d")
}

_none: Mapping[_Place, _Safe] = {}
_active: contextvars.ContextVar[Mapping[_Place, _Safe]] = contextvars.ContextVar(
    "tfgrad_exchanged", default=_none
)
_lock = threading.Lock()
_users = 0
_originals: dict[_Place, Any] = {}


@contextlib.contextmanager
def exchanged(xla: bool = False) -> Iterator[None]:
    """A scope in which TensorFlow's functions have correct second derivatives in this thread.

    A `tf.function` called in it has traces of its own there: one made outside holds TensorFlow's
    functions, and one made inside must not serve calls outside.

    Args:
        xla: Whether max-pooling of series and images is exchanged, too, which only XLA
            differentiates wrong.
    """
    active = {**_ALWAYS, **_active.get(), **(_UNDER_XLA if xla else {})}
    token = _active.set(active)
    _install()
    try:
        with kept_copies(frozenset(active)):
            yield
    finally:
        _uninstall()
        _active.reset(token)


def _install() -> None:
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            for place in {**_ALWAYS, **_UNDER_XLA}:
                module, name = place
                _originals[place] = getattr(module, name)
                setattr(module, name, _choice(_originals[place], place))


def _uninstall() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            for (module, name), original in _originals.items():
                setattr(module, name, original)
            _originals.clear()


def _choice(original: Any, place: _Place) -> Any:
    """The safe function where it is in force, else TensorFlow's."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        safe = _active.get().get(place)
        if safe is None:
            return original(*args, **kwargs)
        token = _active.set(_none)  # it uses TensorFlow's functions itself
        try:
            return safe(original, *args, **kwargs)
        finally:
            _active.reset(token)

    return tf.autograph.experimental.do_not_convert(call)
