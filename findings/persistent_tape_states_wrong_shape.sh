#!/usr/bin/env bash
# TensorFlow 2.21.0: in a tf.function, under a tf.GradientTape(persistent=True) that watches the image,
# tf.image.rot90(x, k=2) has the static shape of a quarter turn.
#
# rot90 is a tf.case whose branches return different shapes. Without a tape, or under a tape that is
# not persistent, height and width are unknown in the graph, as they should be. A persistent tape
# wraps the conditional in a function of its own, and the output gets the static shape of one branch:
# an image of 24 x 36 pixels turned by 180 degrees is declared as 36 x 24. What is built from the
# static shape afterwards is wrong or fails at run time. Nothing is raised or logged when the graph
# is made.
#
# Seen: "declared (None, None, None, 1)" without a tape and under an ordinary one, "declared
# (None, 36, 24, 1)" under a persistent one; the value has the shape (1, 24, 36, 1) each time.
# In tfgrad: placing feature maps follows the conditional and does not believe that shape
# (tfgrad/saliency/placement/).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    tensorflow==2.21.0 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import contextlib
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf

declared = {}


def turned(tape):
    """The shape of a half-turned image at run time; the one that the graph declares is kept."""

    @tf.function
    def run(x):
        with tape() as watching:
            if watching is not None:
                watching.watch(x)
            y = tf.image.rot90(x, k=2)
        declared[tape] = tuple(y.shape)
        return y

    function = run.get_concrete_function(tf.TensorSpec([None, 24, 36, 1]))
    return tuple(function(tf.random.normal([1, 24, 36, 1])).shape)


def persistent():
    return tf.GradientTape(persistent=True)


print(f"TensorFlow {tf.__version__}")
print("expected: the declared shape is compatible with the value's in all three cases")
right = True
for tape in (contextlib.nullcontext, tf.GradientTape, persistent):
    value = turned(tape)
    print(f"seen: {tape.__name__}: declared {declared[tape]}, value {value}")
    open_shape = (None, None, None, 1) if tape is not persistent else (None, 36, 24, 1)
    right = right and value == (1, 24, 36, 1) and declared[tape] == open_shape
raise SystemExit(0 if right else 1)
PYTHON
"$work/venv/bin/python" "$work/show.py" 2>/dev/null
