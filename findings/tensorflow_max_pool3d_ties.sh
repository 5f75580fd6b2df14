#!/usr/bin/env bash
# TensorFlow 2.21.0: on a CPU, the gradient of tf.nn.max_pool3d is given whole to each of the equal
# entries of a window, so that in a constant region the input-gradient is 8 times too large.
#
# A window of 2·2·2 zeros has one output. The gradients of its entries must sum to the output's, as
# they do for tf.nn.max_pool2d, and for max_pool3d where XLA compiles it: the first entry gets all. On
# a CPU without XLA the eight entries get the whole gradient each. Volumes with a constant background,
# such as scans, have such windows everywhere. Nothing is raised or logged.
#
# Seen: the gradients sum to 1 in two dimensions, 8 in three, and 1 in three with jit_compile=True.
# In tfgrad: maps, decompositions and PenalizedModel use a gradient of their own
# (tfgrad/internal/derivatives/pooling.py), make_safe exchanges the function, and the check of a penalty
# outside PenalizedModel names the layer.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    tensorflow==2.21.0 keras==3.15.1 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
import tensorflow as tf


def total(pool, shape, jit=False):
    """The sum of the gradients of the entries of one window of zeros."""

    @tf.function(jit_compile=jit)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(pool(x, 2, 2, "VALID"))
        return tf.reduce_sum(tape.gradient(y, x))

    return float(run(tf.zeros(shape)))


image = total(tf.nn.max_pool2d, [1, 2, 2, 1])
volume = total(tf.nn.max_pool3d, [1, 2, 2, 2, 1])
compiled = total(tf.nn.max_pool3d, [1, 2, 2, 2, 1], jit=True)
print(f"TensorFlow {tf.__version__}")
print("expected: the gradients of one window sum to 1")
print(f"seen: max_pool2d {image:g}, max_pool3d {volume:g}, max_pool3d with XLA {compiled:g}")
raise SystemExit(0 if (image, volume, compiled) == (1, 8, 1) else 1)
PYTHON
"$work/venv/bin/python" "$work/show.py" 2>/dev/null
