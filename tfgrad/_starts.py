"""What images can be sampled from: the model, the start images, the bounds, the numbers."""

from __future__ import annotations

import math
import numbers
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import second_order
from tfgrad.errors import ArgumentError, DataError, ModelError

Limits = tuple[np.ndarray, np.ndarray] | None


def network(model: Any) -> keras.Model:
    """The built Keras model, out of a wrapper that holds it as its `network`."""
    found = getattr(model, "network", model)
    if not isinstance(found, keras.Model):
        raise ArgumentError(f"model: got a {type(model).__name__}; expected a keras.Model.")
    if not found.built:
        raise ModelError(
            f"model {found.name!r}: it is not built. Call it on a batch, or load its weights, "
            "before sampling from it."
        )
    return found


def single_input(network: keras.Model) -> tuple[tf.TensorShape, str]:
    """Shape and dtype of the one input; the shape is unknown where the model does not tell."""
    inputs = keras.tree.flatten(getattr(network, "inputs", None) or [])
    if not inputs:
        return tf.TensorShape(None), network.variable_dtype
    if len(inputs) > 1:
        raise ArgumentError(
            f"model {network.name!r}: got {len(inputs)} inputs; images are sampled from a model "
            "with one. Fix the others: keras.Model(x, model([x, constant]))."
        )
    return tf.TensorShape([None, *inputs[0].shape[1:]]), inputs[0].dtype


def check_logits(network: keras.Model, shape: list[int | None], dtype: str) -> None:
    """Refuse a network that returns probabilities for images of this shape."""
    spec = tf.TensorSpec(shape, dtype)
    softmax = second_order.inspect(network, spec, training=False).probabilities
    if softmax is not None:
        raise ModelError(
            f"model {network.name!r}: its layer {softmax!r} returns probabilities; expected "
            "logits, whose gradient is the score. Pass activation=None to the last layer and train "
            "with from_logits=True."
        )


def float_images(name: str, images: Any) -> np.ndarray:
    """[n, …] of finite floats, as a NumPy array."""
    try:
        x = np.asarray(images)
    except ValueError as error:
        raise ArgumentError(
            f"{name}: got a {type(images).__name__} that is no array; expected float images [n, …] "
            "of one size."
        ) from error
    if not np.issubdtype(x.dtype, np.floating):
        raise ArgumentError(
            f"{name}: got {x.dtype} images; expected float ones, scaled as in training. Try "
            "images.astype('float32') / 255."
        )
    if x.ndim < 2 or 0 in x.shape:
        raise ArgumentError(f"{name}: got shape {x.shape}; expected one image or more, [n, …].")
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{name}: image {int(finite.argmin())} of {len(x)} holds NaN or infinite pixels; "
            "expected finite ones. Look for a division by zero in the preprocessing."
        )
    return x


def limits(bounds: Any, shape: tuple[int, ...]) -> Limits:
    """(lowest, highest) as arrays that broadcast against an image."""
    if bounds is None:
        return None
    try:
        low, high = bounds
    except (TypeError, ValueError):
        raise ArgumentError(
            f"bounds: got {bounds!r}; expected (lowest, highest), or None to clip nothing."
        ) from None
    low, high = broadcast("bounds", low, shape), broadcast("bounds", high, shape)
    if not np.all(low < high):
        raise ArgumentError(f"bounds: got {bounds!r}; expected the lowest below the highest.")
    return low, high


def broadcast(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A finite float array that broadcasts against an image."""
    try:
        array = np.asarray(value, np.float64)
        fits = np.broadcast_shapes(array.shape, shape) == tuple(shape)
    except (TypeError, ValueError):
        fits = False
    if not fits or not np.isfinite(array).all():
        raise ArgumentError(
            f"{name}: got {value!r}; expected a finite number, or an array of them that broadcasts "
            f"against an image {tuple(shape)}, such as one per channel."
        )
    return array


def check_inside(name: str, images: np.ndarray, limits: Limits) -> None:
    """Refuse images that clipping would change, up to float32's rounding."""
    if limits is None:
        return
    low, high = limits
    slack = 1e-6 * (high - low)
    if np.all(images >= low - slack) and np.all(images <= high + slack):
        return
    raise ArgumentError(
        f"{name}: got pixels from {images.min():g} to {images.max():g}, which bounds "
        f"{low.tolist()} to {high.tolist()} would cut off. Scale the images, or give the bounds "
        "that black and white have for the model."
    )


def whole(name: str, value: Any, lowest: int = 1) -> int:
    """The int, at least `lowest`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < lowest:
        raise ArgumentError(f"{name}: got {value!r}; expected a whole number from {lowest} up.")
    return int(value)


def number(name: str, value: Any, zero: bool = False) -> float:
    """The finite float above 0, or from 0 up where `zero` is allowed."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        expected = "from 0 up" if zero else "above 0"
        raise ArgumentError(f"{name}: got {value!r}; expected a finite number {expected}.")
    return float(value)
