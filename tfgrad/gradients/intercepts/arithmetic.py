"""Arithmetic between the calls inside a layer's `call`: has it an intercept?

`x + h`, `h * scale`, a reshaping or a mean of tensors whose tangents are their values (that are
*known*) has none: J·x is the value again. Such arithmetic needs no term, and a term of it would
hold nothing but rounding, which the rescaling of a saliency map would show. Which arithmetic this
is follows from the operations of a graph, not from numbers, so that the terms are the same for
every batch. In a graph it is read when it is recorded; eagerly, from one trace per network.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.gradients.intercepts.aside import traced_aside

# TensorFlow operations by type. Each of these is linear, or homogeneous of degree 1, in its first
# input for any numbers in the others.
_OF_ONE = {
    *("Identity", "IdentityN", "Snapshot", "Reshape", "Transpose", "Squeeze", "ExpandDims", "Cast"),
    *("Neg", "Relu", "LeakyRelu", "Abs", "Sum", "Mean", "Max", "Min", "Cumsum", "RealDiv", "Pad"),
    *("StridedSlice", "Slice", "GatherV2", "GatherNd", "Tile", "ReverseV2", "BroadcastTo"),
    *("MirrorPad", "Roll", "MaxPool", "MaxPoolV2", "MaxPool3D", "AvgPool", "AvgPool3D", "Unpack"),
    *("SpaceToDepth", "DepthToSpace", "SpaceToBatchND", "BatchToSpaceND", "EnsureShape"),
    *("MatrixBandPart", "MatrixDiagPartV3", "CheckNumerics"),
    *("Real", "Imag", "Conj", "ComplexAbs", "FFT", "FFT2D", "FFT3D", "IFFT", "IFFT2D", "IFFT3D"),
    *("RFFT", "RFFT2D", "RFFT3D", "IRFFT", "IRFFT2D", "IRFFT3D"),
    *("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"),
    "ScaleAndTranslate",
}
# Homogeneous if every float input is, or is zero.
_JOINS = {
    *(
        "Add",
        "AddV2",
        "AddN",
        "Sub",
        "ConcatV2",
        "Pack",
        "Maximum",
        "Minimum",
        "SelectV2",
        "Select",
    ),
    *("Split", "SplitV", "PadV2", "Complex"),
}
# Linear in each input: homogeneous if one of them varies.
_PRODUCTS = {
    *("Mul", "MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"),
    *("Conv2D", "Conv3D", "DepthwiseConv2dNative"),
}
_WITHOUT_DERIVATIVE = {"StopGradient", "ZerosLike", "OnesLike", "Floor", "Ceil", "Round", "Sign"}

# What a tensor is of the known ones: it does not depend on them; its tangent is its value; neither.
_CONSTANT, _HOMOGENEOUS, _OTHER = "constant", "homogeneous", "other"

Plan = frozenset[tuple[str, int]]
_plans: weakref.WeakKeyDictionary[Any, dict[Any, Plan]] = weakref.WeakKeyDictionary()


class Arithmetic:
    """The operations of a graph since the calls whose outputs are known.

    Args:
        is_known: Whether a tensor's tangent is its value.
    """

    def __init__(self, is_known: Callable[[tf.Tensor], bool]) -> None:
        self._is_known = is_known
        self._found: dict[int, tuple[tf.Tensor, str]] = {}  # tensors are kept with their ids

    def is_homogeneous(self, tensor: tf.Tensor) -> bool:
        """Whether a tensor of a graph was made of known ones without an intercept."""
        return self._state(tensor) == _HOMOGENEOUS

    def _state(self, tensor: tf.Tensor) -> str:
        if self._is_known(tensor):
            return _HOMOGENEOUS
        if not _varies(tensor.dtype):  # an index, a condition or a variable's handle
            return _CONSTANT
        if id(tensor) not in self._found:
            self._found[id(tensor)] = tensor, self._state_of(tensor.op)
        return self._found[id(tensor)][1]

    def _state_of(self, op: tf.Operation) -> str:
        inputs = list(op.inputs)
        states = [self._state(t) for t in inputs]
        if op.type in _WITHOUT_DERIVATIVE or all(s == _CONSTANT for s in states):
            return _CONSTANT
        varying = [s for s in states if s != _CONSTANT]
        if op.type in _OF_ONE:
            fine = states[0] == _HOMOGENEOUS and len(varying) == 1
        elif op.type in _PRODUCTS:
            fine = varying == [_HOMOGENEOUS]
        elif op.type in _JOINS:
            pairs = zip(inputs, states, strict=True)
            fine = all(
                s == _HOMOGENEOUS or not _varies(t.dtype) or (s == _CONSTANT and _is_zero(t))
                for t, s in pairs
            )
        else:
            fine = False
        return _HOMOGENEOUS if fine else _OTHER


def _varies(dtype: tf.DType) -> bool:
    return dtype.is_floating or dtype.is_complex


def _is_zero(tensor: tf.Tensor) -> bool:
    """Whether a tensor is known to be zero when it is traced."""
    if tensor.op.type == "ZerosLike":
        return True
    value = tf.get_static_value(tensor)
    return value is not None and not np.any(value)


def plan(
    network: keras.layers.Layer,
    x: Any,
    training: bool,
    recorded: Callable[..., contextlib.AbstractContextManager[Any]],
    sources: tuple[str, ...] = (),
) -> Plan:
    """The calls of an eager network before which there is arithmetic without an intercept.

    Args:
        network: The model.
        x: Its inputs, of which only shapes and dtypes are read.
        training: The mode of the calls.
        recorded: `recorded_intercepts`, to which a set is passed as `homogeneous`.
        sources: The calls that it takes for sources.

    Returns:
        (call name, number of the input) of these, computed once per network, mode and shapes.
        Empty if the network cannot be traced: all arithmetic then has a term.
    """
    specs = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), x)
    flat = tf.nest.flatten(specs)
    key = (training, sources, *((tuple(s.shape), s.dtype.name) for s in flat))
    cache = _plans.setdefault(network, {})
    if key not in cache:
        found: set[tuple[str, int]] = set()
        done = traced_aside(network, specs, lambda: recorded(homogeneous=found), training)
        cache[key] = frozenset(found) if done else frozenset()
    return cache[key]
