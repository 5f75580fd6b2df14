"""Max-pooling of volumes, of which TensorFlow's first derivative is wrong on a CPU.

`MaxPool3DGrad` gives the whole gradient of a window to each of its largest entries, as in the
constant background of a scan: the gradients of 2³ equal entries sum to 8 times the window's.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgrad.internal.derivatives.registry import Gradient
from tfgrad.internal.max_pooling import max_pool


def _of_max_pool_3d(op: Any, upstream: tf.Tensor) -> list[Any]:
    """To the first of equal entries, as for series and images, and right to every order."""
    x = op.inputs[0]
    first = 2 if op.get_attr("data_format") == b"NCDHW" else 1
    sizes, strides = (
        [int(n) for n in op.get_attr(name)[first : first + 3]] for name in ("ksize", "strides")
    )
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = max_pool(x, first, sizes, strides, op.get_attr("padding") == b"SAME")
    return [tape.gradient(y, x, output_gradients=upstream)]


GRADIENTS: dict[str, Gradient] = {"MaxPool3D": _of_max_pool_3d}
