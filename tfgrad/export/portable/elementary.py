"""Operations that other runtimes lack, in operations that they have.

A rule takes the operation, its inputs as tensors and the same inputs as they are known, which is as
NumPy arrays where they do not depend on the image. It returns the outputs, or None where it does
not apply. `ELEMENTARY` is for every runtime, `FOR_LITERT` for LiteRT besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.export.portable import axiswise, convolutions, pooling, slices

Rule = Callable[[tf.Operation, list[tf.Tensor], list[Any]], Any]

# As many axes every runtime reduces.
_AXES = 4
# The scales of SELU.
_SELU, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def _elementwise(function: Callable[..., tf.Tensor]) -> Rule:
    return lambda operation, tensors, values: function(*tensors)


def _leaky_relu(operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]) -> Any:
    gradient, x = tensors
    return tf.where(x > 0, gradient, gradient * _number(operation.get_attr("alpha"), gradient))


def _matrix_diag(operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]) -> Any:
    diagonal = tensors[0]
    k, rows, columns, padding = values[1:]
    plain = all(isinstance(v, np.ndarray) for v in (k, rows, columns, padding))
    if not plain or np.any(k) or np.any(padding) or diagonal.shape[-1] is None:
        return None
    size = diagonal.shape[-1]
    if not {int(rows), int(columns)} <= {-1, size}:
        return None
    return diagonal[..., tf.newaxis] * tf.constant(np.eye(size), diagonal.dtype)


def _tile(operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]) -> Any:
    """Repetition along axes of length 1: OpenVINO may lose which axes are repeated."""
    x, counts = tensors[0], values[1]
    if not isinstance(counts, np.ndarray) or None in x.shape:
        return None
    if any(n > 1 and length > 1 for n, length in zip(counts, x.shape, strict=True)):
        return None
    shape = [int(n) * length for n, length in zip(counts, x.shape, strict=True)]
    return tf.broadcast_to(x, shape)


def _reduction(operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]) -> Any:
    """A reduction over no axis, as in gradients of einsum, which OpenVINO and LiteRT reject.

    The gradient of a repetition has twice the axes of its input, more than LiteRT sums over; those
    of length 1 are left out.
    """
    x, axes = tensors[0], values[1]
    if not isinstance(axes, np.ndarray):
        return None
    if not axes.size:
        return x
    if x.shape.rank is None or x.shape.rank <= _AXES or None in x.shape:
        return None
    shape = np.array(x.shape)
    is_reduced = np.isin(np.arange(len(shape)), axes % len(shape))
    kept = (
        shape[~is_reduced]
        if not operation.get_attr("keep_dims")
        else np.where(is_reduced, 1, shape)
    )
    long = shape > 1
    within = np.flatnonzero(is_reduced[long]).astype("int32")
    short = tf.reshape(x, shape[long])
    reduce = getattr(tf.raw_ops, operation.type)
    return tf.reshape(reduce(input=short, axis=within) if within.size else short, kept)


def _softmax_cross_entropy(
    operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]
) -> Any:
    logits, labels = tensors
    logs = tf.nn.log_softmax(logits)
    return [-tf.reduce_sum(labels * logs, -1), tf.nn.softmax(logits) - labels]


def _batch_norm(operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]) -> Any:
    """Normalisation by fixed statistics, and no other."""
    if operation.get_attr("is_training") or operation.get_attr("data_format") != b"NHWC":
        return None
    x, scale, offset, mean, variance = tensors
    factor = scale * tf.math.rsqrt(variance + _number(operation.get_attr("epsilon"), variance))
    y = x * factor + (offset - mean * factor)
    return [y, mean, variance, *[mean] * (len(operation.outputs) - 3)]


def _batch_norm_gradient(
    operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]
) -> Any:
    """The gradient of `_batch_norm`; that of the weights is computed where it is needed."""
    if operation.get_attr("is_training") or operation.get_attr("data_format") != b"NHWC":
        return None
    gradient, x, scale, mean, variance = tensors[:5]
    factor = tf.math.rsqrt(variance + _number(operation.get_attr("epsilon"), variance))
    axes = list(range(x.shape.rank - 1))
    of_scale = tf.reduce_sum(gradient * (x - mean) * factor, axes)
    found = [gradient * scale * factor, of_scale, tf.reduce_sum(gradient, axes)]
    return [*found, *[mean] * (len(operation.outputs) - 3)]


def _sum_of_bias(operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]) -> Any:
    if operation.get_attr("data_format") != b"NHWC":
        return None
    return tf.reduce_sum(tensors[0], list(range(tensors[0].shape.rank - 1)))


def erf(x: tf.Tensor) -> tf.Tensor:
    """erf in multiplications and one exponential, off by at most 3e-7 in float32.

    erf(|x|) = 1 − exp(−x²) P(u), u = 1 / (1 + |x|/2). P is fitted to erfcx over all x ≥ 0.
    """
    size = tf.abs(x)
    u = 1.0 / (1.0 + 0.5 * size)
    total = tf.zeros_like(x)
    for coefficient in _erfcx():
        total = total * u + _number(coefficient, x)
    return tf.sign(x) * (1.0 - tf.exp(-x * x) * total)


def _erfcx(degree: int = 11) -> list[float]:
    """The coefficients of P from the highest power on."""
    from scipy import special

    u = (1 - np.cos(np.pi * (np.arange(400) + 0.5) / 400)) / 2
    values = special.erfcx(2 / u - 2)
    fitted = np.polynomial.Chebyshev.fit(u, values, degree, domain=[0, 1])
    return [float(c) for c in reversed(fitted.convert(kind=np.polynomial.Polynomial).coef)]


def _number(value: float, like: tf.Tensor) -> tf.Tensor:
    return tf.constant(value, like.dtype)


def _zero(condition: tf.Tensor, otherwise: tf.Tensor) -> tf.Tensor:
    """0 where a condition holds; a single number, as tensors of zeros would be stored in files."""
    return tf.where(condition, _number(0, otherwise), otherwise)


ELEMENTARY: dict[str, Rule] = {
    "ReluGrad": _elementwise(lambda g, y: _zero(y <= 0, g)),
    "Relu6Grad": _elementwise(lambda g, y: _zero((y <= 0) | (y >= 6), g)),
    "LeakyReluGrad": _leaky_relu,
    "EluGrad": _elementwise(lambda g, y: tf.where(y < 0, g * (y + 1), g)),
    "SeluGrad": _elementwise(
        lambda g, y: tf.where(y < 0, g * (y + _SELU * _SELU_ALPHA), g * _SELU)
    ),
    "SigmoidGrad": _elementwise(lambda y, g: g * y * (1 - y)),
    "TanhGrad": _elementwise(lambda y, g: g * (1 - y * y)),
    "SoftplusGrad": _elementwise(lambda g, x: g * tf.sigmoid(x)),
    "SoftsignGrad": _elementwise(lambda g, x: g / tf.square(1 + tf.abs(x))),
    "RsqrtGrad": _elementwise(lambda y, g: g * (y * y * y) * -0.5),
    "SqrtGrad": _elementwise(lambda y, g: g * 0.5 / y),
    "ReciprocalGrad": _elementwise(lambda y, g: -g * y * y),
    "InvGrad": _elementwise(lambda y, g: -g * y * y),
    "Erfc": _elementwise(lambda x: 1 - tf.math.erf(x)),
    "MulNoNan": _elementwise(lambda x, y: _zero(tf.equal(y, 0), x * y)),
    "DivNoNan": _elementwise(
        lambda x, y: _zero(tf.equal(y, 0), x / tf.where(tf.equal(y, 0), _number(1, y), y))
    ),
    "Softplus": _elementwise(lambda x: tf.nn.relu(x) + tf.math.log(1 + tf.exp(-tf.abs(x)))),
    "Expm1": _elementwise(lambda x: tf.exp(x) - 1),
    "Xlogy": _elementwise(
        lambda x, y: _zero(
            tf.equal(x, 0), x * tf.math.log(tf.where(tf.equal(x, 0), _number(1, y), y))
        )
    ),
    "SquaredDifference": _elementwise(lambda x, y: tf.square(x - y)),
    "Tile": _tile,
    **dict.fromkeys(("Sum", "Mean", "Prod", "Max", "Min", "Any", "All"), _reduction),
    "MatrixDiagV3": _matrix_diag,
    "SoftmaxCrossEntropyWithLogits": _softmax_cross_entropy,
    "FusedBatchNormV3": _batch_norm,
    "FusedBatchNormGradV3": _batch_norm_gradient,
    "BiasAddGrad": _sum_of_bias,
    "IsFinite": _elementwise(lambda x: tf.equal(x - x, 0)),
    "StridedSliceGrad": slices.gradient,
    "ResizeBicubic": axiswise.resizing("ResizeBicubic"),
    "ResizeBilinearGrad": axiswise.resizing_gradient("ResizeBilinear"),
    "ResizeBicubicGrad": axiswise.resizing_gradient("ResizeBicubic"),
    "ResizeNearestNeighborGrad": axiswise.resizing_gradient("ResizeNearestNeighbor"),
    "MirrorPadGrad": axiswise.mirror_pad_gradient,
    "MaxPoolGrad": pooling.max_pool_gradient,
    "MaxPool3DGrad": pooling.max_pool_gradient,
    "AvgPoolGrad": pooling.average_pool_gradient,
    "AvgPool3DGrad": pooling.average_pool_gradient,
    "Conv2D": convolutions.grouped,
    "Conv2DBackpropInput": convolutions.input_gradient,
    "DepthwiseConv2dNativeBackpropInput": convolutions.depthwise_input_gradient,
}
FOR_LITERT: dict[str, Rule] = {
    "Erf": _elementwise(erf),
    "Erfc": _elementwise(lambda x: 1 - erf(x)),
    "MaxPool3D": pooling.max_pool,
    "AvgPool3D": pooling.average_pool,
}
