"""Whether the code that is being traced will be compiled by XLA."""

from __future__ import annotations

import os
import re

import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util

# Of TF_XLA_FLAGS: clustering at any level, and on the CPU, which it leaves out by default.
_CLUSTERING = re.compile(r"tf_xla_auto_jit=(?!0|-1|off)\S")
_ON_CPU = re.compile(r"tf_xla_cpu_global_jit(?!=(false|0))")


def compiles() -> bool:
    """Whether XLA compiles the operations that are created here.

    True inside a `tf.function(jit_compile=True)`, such as Keras makes for a model compiled with
    `jit_compile=True`, in functions that it calls, and in every `tf.function` where automatic
    clustering is on (`tf.config.optimizer.set_jit`, `TF_XLA_FLAGS`). False while running eagerly.
    """
    if tf.executing_eagerly():
        return False
    return control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph()) or _clusters()


def _clusters() -> bool:
    """Whether TensorFlow compiles parts of every graph by itself."""
    flags = os.environ.get("TF_XLA_FLAGS", "")
    if not tf.config.optimizer.get_jit() and not _CLUSTERING.search(flags):
        return False
    return bool(tf.config.list_physical_devices("GPU")) or bool(_ON_CPU.search(flags))
