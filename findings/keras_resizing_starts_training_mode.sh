#!/usr/bin/env bash
# Keras 3.15.1 with TensorFlow 2.21.0: a model that begins with Resizing or CenterCrop runs in training mode
# when it is called.
#
# The preprocessing layers of images have call(data, training=True). Where nobody says training, as in
# model(x), the first layer that has such a default decides for all layers behind it: dropout drops, and batch
# normalisation takes the statistics of the batch and moves its own. model.predict(x) says training=False and
# is right; so do two calls model(x) differ from it and from one another. Rescaling has no such argument.
# Whoever writes model(x), as most code for saliency maps does, explains another function, and changes
# the model.
#
# Seen: dropout behind Resizing or CenterCrop drops in model(x), and model(x, training=False) equals predict;
# behind Rescaling it does not; moving_mean moves in model(x).
# In tfgrad: every pass says training; tests/gradients/test_training_mode.py.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    tensorflow==2.21.0 keras==3.15.1 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
import numpy as np
import tensorflow as tf

print(f"Keras {keras.__version__}, TensorFlow {tf.__version__}")
x = np.ones((4, 8, 8, 3), "float32")
first = {
    "Resizing": keras.layers.Resizing(8, 8),
    "CenterCrop": keras.layers.CenterCrop(8, 8),
    "Rescaling": keras.layers.Rescaling(1.0),
}
print("expected: model(x) equals predict(x), and changes nothing")
found = {}
for name, layer in first.items():
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((8, 8, 3)), layer, norm, keras.layers.Dropout(0.5)])
    predicted = model.predict(x, verbose=0)
    inference = np.asarray(model(x, training=False))
    called = np.asarray(model(x))
    found[name] = (
        bool(np.allclose(inference, predicted)),
        bool(np.allclose(called, predicted)),
        bool(np.any(np.asarray(norm.moving_mean) != 0)),
    )
    print(
        f"seen: behind {name}: model(x, training=False) equals predict: {found[name][0]}; "
        f"model(x) equals predict: {found[name][1]}; moving_mean moved: {found[name][2]}"
    )
wrong = (True, False, True)
right = (True, True, False)
same = found == {"Resizing": wrong, "CenterCrop": wrong, "Rescaling": right}
raise SystemExit(0 if same else 1)
PYTHON
"$work/venv/bin/python" "$work/show.py" 2>/dev/null
