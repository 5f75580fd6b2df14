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


def registered(name):
    """Whether TensorFlow has a gradient for an operation: None if it is not differentiable."""
    entry = ops.gradient_registry._registry.get(name)
    if entry is None:
        return False
    function = entry["type"]
    if function is not None and function.__module__.startswith("tfgrad."):
        # One that the project lays over TensorFlow's, and that does as this one outside a scope.
        try:
            return None if set(function(None, None)) == {None} else True
        except LookupError:
            return False
        except AttributeError:  # TensorFlow's gradient, which reads the operation
            return True
    return None if function is None else True


def test_the_tables_are_tensorflow_s():
    absent = {name for name in operations.ABSENT if registered(name) is False}
    assert absent == set(operations.ABSENT)
    assert all(registered(name) is None for name in operations.SILENT)
    assert all(op_def_registry.get(name) for name in [*operations.SILENT, *absent])
    # And nothing of the kind is forgotten.
    known = [n for n in dir(tf.raw_ops) if re.search("Grad|Backprop", n)]
    bad = {n for n in known if not registered(n)}
    listed = {*operations.SILENT, *operations.ABSENT}
    assert {n for n in bad - listed if not re.fullmatch(ELSEWHERE, n)} == set()
