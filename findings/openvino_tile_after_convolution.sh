#!/usr/bin/env bash
# OpenVINO 2026.4.1, TensorFlow 2.21.0: a tile of a convolution's mean cannot be converted.
#
# A TensorFlow graph has its channels last. OpenVINO puts them first and moves the transpositions
# through the graph, also past tf.tile, but leaves the numbers of repetitions in the old order: a mean
# over the positions, [1, 1, 1, C], that is repeated [1, H, W, 1] times is repeated along the channels
# instead. The product with the convolution's output then has shapes that do not fit, and the
# conversion of a valid network raises RuntimeError. tf.broadcast_to in place of tf.tile converts, and
# agrees with TensorFlow. The gradient of a mean, as that of global average pooling, is such a tile.
#
# Seen: "Argument shapes are inconsistent" with tf.tile, an error of 1e-7 with tf.broadcast_to.
#
# tfgrad writes repetition along axes of length 1 as a broadcast in the files of other runtimes
# (tfgrad/export/portable/elementary.py, tests/export/portable/test_elementary.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6 openvino==2026.4.1
cat > "$folder/tile.py" <<'PYTHON'
import sys

import numpy as np
import openvino
import tensorflow as tf

random = np.random.default_rng(0)
kernel = tf.constant(random.normal(size=(1, 1, 3, 4)).astype("float32"))
image = random.normal(size=(1, 4, 4, 3)).astype("float32")


def network(repeat):
    @tf.function(input_signature=[tf.TensorSpec((1, 4, 4, 3), tf.float32)], autograph=False)
    def gated(x):
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
        return {"z": y * repeat(tf.reduce_mean(y, [1, 2], keepdims=True))}

    return gated


def converted(repeat):
    function = network(repeat)
    try:
        model = openvino.convert_model(function.get_concrete_function())
    except RuntimeError as error:
        return "inconsistent" if "inconsistent" in str(error) else str(error)
    found = openvino.compile_model(model, "CPU")(image)[0]
    return float(np.abs(found - function(image)["z"]).max())


tiled = converted(lambda m: tf.tile(m, [1, 4, 4, 1]))
broadcast = converted(lambda m: tf.broadcast_to(m, [1, 4, 4, 4]))
print("openvino", openvino.__version__)
print("expected: both convert, with an error of rounding")
print("tf.tile:", tiled)
print("tf.broadcast_to:", broadcast)
sys.exit(not (tiled == "inconsistent" and isinstance(broadcast, float) and broadcast < 1e-5))
PYTHON
"$folder/venv/bin/python" "$folder/tile.py"
