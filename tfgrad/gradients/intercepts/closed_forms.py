"""Closed forms of a call's intercept y − J·x, which need no differentiation.

| rule          | calls                                              | intercept             |
|---------------|----------------------------------------------------|-----------------------|
| `affine`      | dense and convolutions, without their activation   | the bias              |
| `batch_norm`  | batch normalisation in inference                   | β − γμ/√(v + ε)       |
| `layer_norm`  | layer and RMS normalisation                        | β + (y − β) v/(v + ε) |
| `homogeneous` | J·x = y: ReLU, pooling, reshaping, sums, …         | none                  |
| `linear`      | also linear in x: resizing                         | none                  |
| `shift`       | rescaling and normalisation of pixels              | the constant added    |
| `elementwise` | each output depends on one input                   | φ(z) − φ′(z) z        |
| `relu6`       | the same of ReLU6                                  | 6 where z ≥ 6, else 0 |
| `product`     | of n inputs                                        | −(n − 1) y            |

A rule holds for Keras's own classes and for tfgrad's, not for a subclass, whose `call` may differ.
Every call without a rule is differentiated. `README.md` beside this file tells how to add a rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfgrad import layers as own
from tfgrad.gradients.intercepts.terms import Kind
from tfgrad.internal import keras_private
from tfgrad.internal.precision import at_least_float32

Rule = Literal[
    "affine",
    "batch_norm",
    "layer_norm",
    "homogeneous",
    "linear",
    "shift",
    "elementwise",
    "relu6",
    "product",
]
# Where the inputs are known, calls by these rules have no term.
WITHOUT_INTERCEPT = ("homogeneous", "linear")
# By these, a call has an intercept of its own kind, apart from that of arithmetic before it.
OWN_INTERCEPT = ("affine", "batch_norm", "elementwise", "relu6", "shift")

_L, _A = keras.layers, keras.activations

_AFFINE = {
    *(_L.Dense, _L.EinsumDense, _L.Conv1D, _L.Conv2D, _L.Conv3D),
    *(_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose),
    *(_L.DepthwiseConv1D, _L.DepthwiseConv2D, _L.SeparableConv1D, _L.SeparableConv2D),
}
_BATCH_NORM = {_L.BatchNormalization, own.BatchNormalization}
_LAYER_NORM = {_L.LayerNormalization, own.LayerNormalization, _L.RMSNormalization}
# Forward-mode differentiation silently drops the tangent of a bilinear resizing.
_LINEAR = {
    *(_L.Resizing, own.Resizing, _L.UpSampling2D, own.UpSampling2D),
    *(_L.UpSampling1D, _L.UpSampling3D, _L.CenterCrop),
}
_HOMOGENEOUS = {
    *(_L.LeakyReLU, _L.PReLU, _L.Identity, _L.InputLayer, _L.ActivityRegularization, _L.Masking),
    *(_L.Flatten, _L.Reshape, _L.Permute, _L.RepeatVector),
    *(_L.Add, _L.Subtract, _L.Average, _L.Concatenate, _L.Maximum, _L.Minimum),
    *(
        getattr(_L, f"{prefix}{kind}{rank}D")
        for prefix in ("", "Global", "Adaptive")
        for kind in ("AveragePooling", "MaxPooling")
        for rank in (1, 2, 3)
    ),
    *(getattr(_L, f"{kind}{rank}D") for kind in ("Cropping", "ZeroPadding") for rank in (1, 2, 3)),
    *(own.MaxPooling1D, own.MaxPooling2D, own.MaxPooling3D),
}
# Layers that return their input in inference.
_INFERENCE_IDENTITY = {
    *(_L.Dropout, _L.GaussianDropout, _L.GaussianNoise, _L.AlphaDropout),
    *(_L.SpatialDropout1D, _L.SpatialDropout2D, _L.SpatialDropout3D),
}
_ELEMENTWISE = {_L.ELU, own.Softplus}

_RELU6 = [_A.relu6, tf.nn.relu6, keras.ops.relu6]
_HOMOGENEOUS_ACTIVATIONS = [_A.linear, _A.relu, _A.leaky_relu, _A.hard_shrink]
_HOMOGENEOUS_ACTIVATIONS += [tf.nn.relu, keras.ops.relu]
_ELEMENTWISE_ACTIVATIONS = [
    *(_A.celu, _A.elu, _A.exponential, _A.gelu, _A.hard_sigmoid, _A.hard_silu),
    *(_A.hard_tanh, _A.log_sigmoid, _A.mish, _A.selu, _A.sigmoid, _A.silu),
    *(_A.soft_shrink, _A.softplus, _A.softsign, _A.sparse_plus, _A.sparse_sigmoid, _A.squareplus),
    *(_A.tanh, _A.tanh_shrink),
    *(tf.nn.silu, tf.nn.gelu, tf.nn.sigmoid, tf.nn.softplus, tf.nn.tanh, tf.nn.elu),
    *(keras.ops.silu, keras.ops.gelu, keras.ops.sigmoid, keras.ops.softplus, keras.ops.tanh),
    *(keras.ops.elu, keras.ops.selu, keras.ops.celu, keras.ops.softsign),
    *(keras.ops.log_sigmoid, keras.ops.squareplus, keras.ops.exp),
]

# Bare operations of a functional graph, by class name: Keras does not make the classes public.
_OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "Identity", "Negative", "Abs"), "homogeneous"),
    **dict.fromkeys(("Reshape", "Transpose", "ExpandDims", "Squeeze", "GetItem"), "homogeneous"),
    **dict.fromkeys(("Mean", "Sum", "Max", "Min", "MaxPool", "AveragePool"), "homogeneous"),
    **dict.fromkeys(("Cast", "Flip", "Repeat", "Tile", "Swapaxes", "Moveaxis"), "homogeneous"),
    **dict.fromkeys(("Sigmoid", "Tanh", "Softplus", "Silu", "Gelu"), "elementwise"),
    **dict.fromkeys(("Elu", "Selu", "HardSigmoid", "HardSilu", "Exp", "Mish"), "elementwise"),
    **dict.fromkeys(("Celu", "Softsign", "HardTanh", "LogSigmoid", "SoftShrink"), "elementwise"),
    **dict.fromkeys(("TanhShrink", "SparsePlus", "SparseSigmoid", "Squareplus"), "elementwise"),
    "HardShrink": "homogeneous",
    "Relu6": "relu6",
    "Multiply": "product",
}
# Homogeneous if all arguments are tensors; a number among them (`x + 1`) is a constant.
_JOINS = {"Add", "Subtract", "Concatenate", "Stack", "Maximum", "Minimum"}


def rule(operation: Any, arguments: Any = (), training: bool = False) -> Rule | None:
    """The rule for a call of a layer or bare operation with these arguments, or None."""
    kind = operation.__class__  # the class that `second_order.make_safe` started from
    if not isinstance(operation, _L.Layer):
        if not keras_private.is_own_operation(operation):
            return None
        if kind.__name__ in _JOINS:
            plain = all(isinstance(a, tf.Tensor) for a in tf.nest.flatten(arguments))
            return "homogeneous" if plain else None
        if getattr(operation, "initial", None) is not None:  # of a maximum or minimum
            return None
        if kind.__name__ == "Threshold":
            # An array of values below the threshold may widen the output.
            if not isinstance(operation.default_value, int | float):
                return None
            return "elementwise" if operation.default_value else "homogeneous"
        if kind.__name__ == "ReLU":
            return _relu_rule(operation)
        return _OPERATIONS.get(kind.__name__)
    if getattr(operation, "quantization_mode", None):
        return None
    if kind in _AFFINE:
        return "affine"
    if kind in _BATCH_NORM:
        return None if training and operation.trainable else "batch_norm"
    if kind in _LAYER_NORM:
        # With rms_scaling Keras divides by the standard deviation without subtracting the mean.
        return None if getattr(operation, "rms_scaling", False) else "layer_norm"
    if kind in _LINEAR:
        padded = getattr(operation, "pad_to_aspect_ratio", False) and operation.fill_value
        return None if padded else "linear"
    if kind is _L.Normalization and not hasattr(operation.mean, "numpy"):
        return None  # built inside a graph, where its numbers cannot be read
    if kind in (_L.Rescaling, _L.Normalization):
        return "shift" if np.any(shift(operation)) else "homogeneous"
    if kind in _HOMOGENEOUS or (kind in _INFERENCE_IDENTITY and not training):
        return "homogeneous"
    if kind in _ELEMENTWISE:
        return "elementwise"
    if kind is _L.ReLU:
        return _relu_rule(operation)
    if kind is _L.Activation:
        return activation_rule(operation.activation)
    if kind is _L.Multiply or (kind is _L.Dot and not operation.normalize):
        return "product"
    return None


def _relu_rule(relu: Any) -> Rule:
    """The rule of a ReLU with options, as a layer or as an operation."""
    # Below a threshold the slope is taken of z − threshold.
    moved = relu.threshold and relu.negative_slope
    if relu.max_value == 6 and not relu.threshold and not relu.negative_slope:
        return "relu6"
    return "elementwise" if relu.max_value is not None or moved else "homogeneous"


def activation_rule(activation: Any) -> Rule | None:
    """`"homogeneous"`, `"elementwise"`, `"relu6"`, or None for an activation without a rule."""
    if activation is None or any(activation is known for known in _HOMOGENEOUS_ACTIVATIONS):
        return "homogeneous"
    if any(activation is known for known in _RELU6):
        return "relu6"
    if any(activation is known for known in _ELEMENTWISE_ACTIVATIONS):
        return "elementwise"
    return rule(activation) if isinstance(activation, _L.Layer) else None


def intercept(
    rule: Rule, layer: Any, inputs: list[tf.Tensor], y: tf.Tensor
) -> tuple[Kind, tf.Tensor | None]:
    """The kind and the intercept of a call by its rule.

    Args:
        rule: A rule with an intercept, other than "affine", whose call has two parts.
        layer: The layer or operation.
        inputs: The float tensors among the arguments of the call, of which all are known.
        y: The output.

    Returns:
        (kind, intercept), where the intercept broadcasts to y; None for "elementwise", whose term
        follows from a gradient with respect to the input, and for "batch_norm", whose intercepts
        are computed together by `batch_norm_shifts`.
    """
    if rule == "elementwise":
        return "activation", None
    if rule == "relu6":
        return "activation", clipped(y)
    if rule == "batch_norm":
        return "batch_norm", None
    if rule == "shift":
        return "affine", tf.constant(shift(layer), y.dtype)
    if rule == "layer_norm":
        return "residue", layer_norm_intercept(layer, inputs[0], y)
    assert rule == "product", rule
    return "residue", (1 - len(inputs)) * y


def clipped(y: tf.Tensor) -> tf.Tensor:
    """The intercept of y = ReLU6(z): 6 where it is clipped and exactly 0 elsewhere.

    A difference of two products would be 0 up to their rounding alone, which differs where a
    compiler joins a product and a sum; maps that are rescaled by layer would show it.
    """
    return y - tf.math.floormod(y, 6)


def bias(layer: Any, rank: int) -> tf.Tensor | None:
    """The bias of an affine layer, shaped to broadcast over its output of that rank, or None."""
    if layer.bias is None:
        return None
    value = tf.convert_to_tensor(layer.bias)
    if getattr(layer, "data_format", None) == "channels_first":
        return tf.reshape(value, [1, -1] + [1] * (rank - 2))
    return value


def shift(layer: Any) -> np.ndarray:
    """The constant that a rescaling or normalisation adds; it broadcasts over the output."""
    if isinstance(layer, _L.Rescaling):
        # TensorFlow converts a Python number to float32, whatever dtype the layer computes in.
        number = isinstance(layer.offset, int | float)
        return np.asarray(layer.offset, "float32" if number else None)
    deviation = np.maximum(np.sqrt(np.asarray(layer.variance)), keras.config.epsilon())
    mean = np.asarray(layer.mean)
    return mean if layer.invert else -mean / deviation


def batch_norm_shifts(layers: Sequence[Any], ranks: Sequence[int]) -> list[tf.Tensor]:
    """β − γμ/√(v + ε) of the moving statistics of several layers, computed at once.

    Args:
        layers: Batch normalisations.
        ranks: The ranks of their outputs, over which the results broadcast.
    """
    found: dict[int, tf.Tensor] = {}
    for dtype in {layer.moving_variance.dtype for layer in layers}:
        alike = [i for i, layer in enumerate(layers) if layer.moving_variance.dtype == dtype]
        shifts = _shifts([layers[i] for i in alike], tf.as_dtype(dtype))
        found |= dict(zip(alike, shifts, strict=True))
    return [
        _beside_channels(found[i], layer.axis % rank, rank)
        for i, (layer, rank) in enumerate(zip(layers, ranks, strict=True))
    ]


def _shifts(layers: Sequence[Any], dtype: tf.DType) -> list[tf.Tensor]:
    """`batch_norm_shifts` of layers of one dtype, [channels] each."""
    sizes = [layer.moving_mean.shape[0] for layer in layers]

    def joined(vectors: list[Any]) -> tf.Tensor:
        return tf.concat([tf.cast(v, dtype) for v in vectors], 0)

    def of(name: str, default: float) -> tf.Tensor:
        owned = [getattr(layer, name) for layer in layers]
        pairs = zip(owned, sizes, strict=True)
        return joined([np.full(n, default) if v is None else v for v, n in pairs])

    epsilon = np.repeat([float(layer.epsilon) for layer in layers], sizes)
    variance = joined([layer.moving_variance for layer in layers])
    scale = tf.math.rsqrt(variance + tf.cast(epsilon, dtype)) * of("gamma", 1.0)
    shift = of("beta", 0.0) - joined([layer.moving_mean for layer in layers]) * scale
    return tf.split(shift, sizes)


def _beside_channels(vector: tf.Tensor, axis: int, rank: int) -> tf.Tensor:
    """A vector that broadcasts along one axis of tensors of a rank."""
    if axis == rank - 1:
        return vector
    return tf.reshape(vector, [-1] + [1] * (rank - 1 - axis))


def layer_norm_intercept(layer: Any, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """β + (y − β) v/(v + ε), v the mean square of x about its mean (about 0 for RMS).

    Along the ray t ↦ t·x the normalised part n changes by n ε/(v + ε), which is 0 for ε = 0.
    """
    rms = isinstance(layer, _L.RMSNormalization)
    x = at_least_float32(x)
    axis = layer.axis
    if rms:
        v = tf.reduce_mean(tf.square(x), axis, keepdims=True)
    else:
        v = tf.math.reduce_variance(x, axis, keepdims=True)
    kept = tf.cast(layer.epsilon / (v + layer.epsilon), y.dtype)
    if rms or layer.beta is None:
        return y - y * kept
    axes = [axis] if isinstance(axis, int) else list(axis)
    shape = [1] * x.shape.rank
    for a in axes:
        shape[a] = x.shape[a]
    beta = tf.cast(tf.reshape(layer.beta, shape), y.dtype)
    return y - (y - beta) * kept
