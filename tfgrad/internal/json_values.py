"""Values in a form that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf


def plain(value: Any) -> Any:
    """A nest of mappings, lists, arrays and tensors as dicts and lists of Python's own types.

    Numbers that are not finite become None, bytes text.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.ndarray | np.generic | tf.Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "biufSUO":  # such as bfloat16
            array = array.astype(np.float64)
        finite = array.dtype.kind in "biu" or (array.dtype.kind == "f" and np.isfinite(array).all())
        return array.tolist() if finite else plain(array.tolist())
    return value
