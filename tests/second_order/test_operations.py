"""The tables of unsafe operations say what TensorFlow's registry says."""

import re

import tensorflow as tf
from tensorflow.python.framework import op_def_registry, ops

from tfgrad.second_order import operations

# Gradient operations that no derivative with respect to a layer's input emits, and why.
ELSEWHERE = (
    r"_.*|Xla.*|.*Accumulator.*|.*Apply.*|.*TPU.*|BroadcastGradientArgs|StopGradient|TensorArray.*"
    r"|.*GradientIdentity.*|SymbolicGradient|CopyToMeshGrad|PreventGradient"  # no arithmetic
    r"|BatchCholeskyGrad|CholeskyGrad|TileGrad|(LSTM|GRU)BlockCellGrad|UnbatchGrad"  # unused
    r"|Conv(2D|3D)Backprop(Filter|Input)(V2)?|MaxPoolGradGrad(V2|WithArgmax)"  # other versions, 2nd
    r"|Ragged.*|SparseAddGrad|SparseMatrixSoftmaxGrad"  # sparse operands
)


def test_the_tables_are_tensorflow_s():
    registry = ops.gradient_registry._registry
    absent = {name for name in operations.ABSENT if name not in registry}
    assert absent == set(operations.ABSENT)
    assert all(registry[name]["type"] is None for name in operations.SILENT)
    assert all(op_def_registry.get(name) for name in [*operations.SILENT, *absent])
    # And nothing of the kind is forgotten.
    known = [n for n in dir(tf.raw_ops) if re.search("Grad|Backprop", n)]
    bad = {n for n in known if n not in registry or registry[n]["type"] is None}
    listed = {*operations.SILENT, *operations.ABSENT}
    assert {n for n in bad - listed if not re.fullmatch(ELSEWHERE, n)} == set()
