"""Lengths of axes, static where they are known."""

from typing import Any

import tensorflow as tf


def length_of(x: Any, axis: int) -> Any:
    """The static length of an axis where it is known, else the dynamic one."""
    return x.shape[axis] if x.shape[axis] is not None else tf.shape(x)[axis]
