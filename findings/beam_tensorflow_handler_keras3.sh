#!/usr/bin/env bash
# Apache Beam 2.77.0 with TensorFlow 2.21.0 and Keras 3.15.1: RunInference's TFModelHandlerNumpy and
# TFModelHandlerTensor cannot load a SavedModel.
#
# Their model_type defaults to ModelType.SAVED_MODEL. The handler passes the directory to
# tf.keras.models.load_model, which in Keras 3 reads .keras and .h5 files alone. A SavedModel that
# tf.saved_model.load reads, and that TensorFlow Serving serves, is a ValueError when the first worker
# starts, after the job has been submitted. The module needs
# tensorflow_hub, too, which apache-beam does not install.
#
# Seen: "ValueError: Unable to load the TensorFlow model: File format not supported" from load_model of
# the handler; tf.saved_model.load of the same directory returns its signatures.
# In tfgrad: apps/map_dataset/model_handler.py is a handler that loads SavedModels by their signatures.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    tensorflow==2.21.0 keras==3.15.1 apache-beam==2.77.0 tensorflow-hub==0.16.1 tf-keras==2.21.0 \
    setuptools==80.9.0 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import apache_beam
import keras
import tensorflow as tf
from apache_beam.ml.inference.tensorflow_inference import TFModelHandlerNumpy

path = os.path.join(sys.argv[1], "model")
keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).export(path, verbose=False)
print(f"Beam {apache_beam.__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}")
print("expected: both load the SavedModel")
print(f"seen: tf.saved_model.load: signatures {list(tf.saved_model.load(path).signatures)}")
try:
    TFModelHandlerNumpy(path).load_model()
except ValueError as error:
    print(f"seen: TFModelHandlerNumpy: ValueError: {str(error).splitlines()[0][:100]}")
    raise SystemExit(0 if "File format not supported" in str(error) else 1)
print("seen: TFModelHandlerNumpy: loaded")
raise SystemExit(1)
PYTHON
"$work/venv/bin/python" "$work/show.py" "$work" 2>/dev/null
