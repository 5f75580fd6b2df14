"""Parts of both network families: argument checks, normalisation, activation, convolution, head."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import integer, is_integer, number, one_of
from tfgrad.layers import BatchNormalization, Softplus

ACTIVATIONS = ("relu", "softplus")
_FEWEST_CHANNELS = 4


def normalization(name: str) -> keras.layers.Layer:
    """Return a batch normalisation with a correct second derivative, at the cost of Keras's own.

    Momentum and ε are the defaults of the framework in which the papers' code was written (its 0.1
    is 0.9 in Keras). With Keras's default of 0.99 the moving statistics need hundreds of steps to
    settle, more than a run on a few images per class has.
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
    # A loss and its gradients need logits in full precision, whatever the body computes in.
    half = keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16")
    pool = keras.layers.GlobalAveragePooling2D(name="global_pool")
    logits = keras.layers.Dense(
        classes, kernel_initializer="he_normal", dtype="float32" if half else None, name="logits"
    )
    return lambda x: logits(pool(x))


def scaled(channels: int, width: float) -> int:
    """Return `channels` × `width`, rounded to the nearest integer (halves up), at least 4."""
    return max(_FEWEST_CHANNELS, math.floor(channels * width + 0.5))


def check_arguments(
    depth: object,
    depths: Sequence[int],
    input_shape: object,
    classes: object,
    width: object,
    activation: object,
    beta: object,
) -> None:
    """Check the arguments that both families take.

    Raises:
        ArgumentError: An argument has the wrong type or is out of range.
    """
    if isinstance(depth, bool) or depth not in depths:
        raise ArgumentError(f"depth: got {depth!r}; expected one of {list(depths)}.")
    if (
        not isinstance(input_shape, (tuple, list))
        or len(input_shape) != 3
        or not all(is_integer(size) and size > 0 for size in input_shape)
    ):
        raise ArgumentError(
            f"input_shape: got {input_shape!r}; expected three integers ≥ 1, (height, width, "
            "channels), without the batch."
        )
    integer("classes", classes)
    number("width", width)
    number("beta", beta)
    one_of("activation", activation, ACTIVATIONS)
