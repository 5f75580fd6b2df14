#!/usr/bin/env bash
# Keras 3.15.1 on TensorFlow 2.21.0: a layer that calls a tf.function of its own loses its state
# updates for good once its first call in training mode ran inside a keras.StatelessScope.
#
# A StatelessScope is documented to leave variables unchanged while it is open. But the trace that
# the layer's tf.function makes inside the scope contains no assignments, TensorFlow caches it, and
# every later call with the same input signature uses it: here the moving mean of a batch
# normalisation stays 0 after two ordinary calls in training mode, where it should be 7.5. Nothing
# is raised or logged.
#
# Seen: "without scope 7.5, after a scope 0.0".
# In tfgrad: calls that must change nothing run the network's own functions as copies
# (tfgrad/internal/unchanged_state.py, function_copies.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    tensorflow==2.21.0 keras==3.15.1 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
import tensorflow as tf


class Normalised(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.norm = keras.layers.BatchNormalization(momentum=0.5)

    def build(self, shape):
        self.norm.build(shape)

    @tf.function
    def normalised(self, x):
        return self.norm(x, training=True)

    def call(self, x):
        return self.normalised(x)


def moving_mean(scope_first):
    layer, x = Normalised(), tf.fill([4, 3], 10.0)
    layer.build(x.shape)
    if scope_first:
        with keras.StatelessScope():
            layer(x)
    layer(x)
    layer(x)
    return float(layer.norm.moving_mean.numpy()[0])


without, after = moving_mean(False), moving_mean(True)
print(f"Keras {keras.__version__}, TensorFlow {tf.__version__}")
print("expected: the moving mean is 7.5 in both cases")
print(f"seen: without scope {without}, after a scope {after}")
raise SystemExit(0 if (without, after) == (7.5, 0.0) else 1)
PYTHON
"$work/venv/bin/python" "$work/show.py" 2>/dev/null
