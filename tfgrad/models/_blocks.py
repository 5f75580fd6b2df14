"""What both families of networks are made of: argument checks, normalisation, activation, head."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfgrad.errors import ArgumentError
from tfgrad.layers import BatchNormalization, Softplus

ACTIVATIONS = ("relu", "softplus")
_FEWEST_CHANNELS = 4


def normalization(name: str) -> keras.layers.Layer:
    """Batch normalisation right to second order, which costs no more than Keras's own.

    Momentum and ε are the defaults of the framework the papers' code was written in (their 0.1 is
    Keras's 0.9). Keras's own 0.99 needs hundreds of steps before inference mode can be trusted,
    more than a run on a few images per class has.
    """
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)


def activation_layer(activation: str, beta: float, name: str) -> keras.layers.Layer:
    """Return a ReLU or a softplus(βz)/β layer."""
    if activation == "softplus":
        return Softplus(beta, name=name)
    return keras.layers.ReLU(name=name)


def convolution(
    channels: int, name: str, size: int = 3, strides: int = 1, use_bias: bool = True
) -> keras.layers.Layer:
    """Return a square convolution that keeps the spatial size (divided by `strides`)."""
    return keras.layers.Conv2D(
        channels,
        size,
        strides=strides,
        padding="same",
        use_bias=use_bias,
        kernel_initializer="he_normal",
        name=name,
    )


def head(classes: int) -> Callable[[Any], Any]:
    """Return global average pooling and the dense layer that ends in logits."""
    # A loss and its gradients want full-precision logits, whatever the body computes in.
    half = keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16")
    pool = keras.layers.GlobalAveragePooling2D(name="global_pool")
    logits = keras.layers.Dense(
        classes, kernel_initializer="he_normal", dtype="float32" if half else None, name="logits"
    )
    return lambda x: logits(pool(x))


def scaled(channels: int, width: float) -> int:
    """Return `channels` × `width`, rounded to the nearest integer (halves up), at least 4."""
    return max(_FEWEST_CHANNELS, math.floor(channels * width + 0.5))


def is_count(value: object) -> bool:
    """Tell whether a value is a positive integer (`True` is not a number here)."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) > 0


def check_arguments(
    depth: object,
    depths: Sequence[int],
    input_shape: object,
    classes: object,
    width: object,
    activation: object,
    beta: object,
) -> None:
    """Refuse what no network of either family can be built from.

    Raises:
        ArgumentError: naming the argument, what came and what is allowed.
    """
    if isinstance(depth, bool) or depth not in depths:
        raise ArgumentError(f"depth={depth!r} is unknown; choose one of {list(depths)}.")
    if (
        not isinstance(input_shape, (tuple, list))
        or len(input_shape) != 3
        or not all(is_count(size) for size in input_shape)
    ):
        raise ArgumentError(
            f"input_shape={input_shape!r} must be three positive integers, "
            "(height, width, channels), without the batch."
        )
    if not is_count(classes):
        raise ArgumentError(f"classes={classes!r} must be a positive integer.")
    for argument, value in (("width", width), ("beta", beta)):
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not (math.isfinite(value) and value > 0)
        ):
            raise ArgumentError(f"{argument}={value!r} must be a finite number above 0.")
    if activation not in ACTIVATIONS:
        raise ArgumentError(
            f"activation={activation!r} is unknown; choose one of {list(ACTIVATIONS)}."
        )
