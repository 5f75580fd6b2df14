#!/usr/bin/env bash
# Keras 3.15.1 with TensorFlow 2.21.0: fit overrides training=False of a call inside a functional model.
#
# Keras's guide on transfer learning (keras.io/guides/transfer_learning) calls the pretrained part with
# training=False, so that its batch normalisation keeps its statistics also once the part is trainable. A
# functional model runs its layers through a function that puts the mode of the whole call over the
# arguments that the layers were called with. Under fit the part is in training mode: activations are
# normalised by the batch, and the statistics move, without a word. In the call of a subclassed model the same
# argument has its effect. What keeps the statistics everywhere is trainable = False of the layers themselves.
#
# Seen: moving_mean moves in one fit step for a nested model and for a layer that were called with
# training=False in a functional model; it stays 0 in a subclassed one, and with trainable = False.
# In tfgrad: pretrained(..., classes=...) makes batch normalisation not trainable; tests/loading/test_new_heads.py.
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
x = np.random.default_rng(0).normal(3, 2, (32, 4)).astype("float32")
y = np.zeros((32, 1), "float32")


def pretrained_part(trainable=True):
    inputs = keras.Input((4,))
    norm = keras.layers.BatchNormalization(trainable=trainable)
    return keras.Model(inputs, norm(inputs)), norm


class Subclassed(keras.Model):
    def __init__(self, part):
        super().__init__()
        self.part, self.last = part, keras.layers.Dense(1)

    def call(self, x):
        return self.last(self.part(x, training=False))


def functional(part):
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(1)(part(inputs, training=False)))


cases = {}
part, norm = pretrained_part()
cases["nested model in a functional model"] = functional(part), norm
norm = keras.layers.BatchNormalization()
cases["layer in a functional model"] = functional(norm), norm
part, norm = pretrained_part()
cases["nested model in a subclassed model"] = Subclassed(part), norm
part, norm = pretrained_part(trainable=False)
cases["nested model with trainable=False of the layer"] = functional(part), norm

print("expected: called with training=False, batch normalisation keeps moving_mean = 0 in fit")
moved = []
for name, (model, norm) in cases.items():
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)
    moved.append(bool(np.any(np.asarray(norm.moving_mean) != 0)))
    print(f"seen: {name}: moving_mean moved: {moved[-1]}")
raise SystemExit(0 if moved == [True, True, False, False] else 1)
PYTHON
"$work/venv/bin/python" "$work/show.py" 2>/dev/null
