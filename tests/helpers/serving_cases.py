"""A network to export, images to ask it about, and what can be read of the export."""

import os

import keras
import numpy as np
import tensorflow as tf

from tfgrad import loading, saliency
from tfgrad.export import warmup_requests

# They compute in Python, and no graph can hold that.
PYTHON = [
    name for name in ("gradcam_plus_plus", "layercam", "scorecam") if name in saliency.METHODS
]
METHODS = [name for name in saliency.METHODS if name not in PYTHON]


def build(shape=(8, 9, 3), classes=4):
    """ReLUs, a batch norm with statistics of its own, and a map of more than one position."""
    network = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(5, 3, activation="relu", bias_initializer="normal"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(4, 3),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, bias_initializer="normal"),
        ],
        name="small",
    )
    network(np.random.default_rng(3).normal(1, 2, (9, *shape)).astype("float32"), training=True)
    return network


def floats(count=64, shape=(8, 9, 3), seed=0):
    return np.random.default_rng(seed).uniform(size=(count, *shape)).astype("float32")


def encoded(count=64, channels=3, seed=0):
    """PNG and JPEG files in turn, of many sizes."""
    rng = np.random.default_rng(seed)
    files = []
    for i in range(count):
        shape = (*rng.integers(1, 40, 2), channels)
        picture = rng.integers(0, 256, shape).astype("uint8")
        encode = tf.io.encode_jpeg if i % 2 else tf.io.encode_png
        files.append(encode(picture).numpy())
    return files


def targets(count=64, classes=4):
    return np.arange(-1, count - 1, dtype="int32") % (classes + 1) - 1


def signatures(path):
    loaded = loading.load_served(path)  # it rejects graphs that reach outside themselves
    return loaded, loaded.signatures


def close(got, expected, scale=None):
    """Equal to 1e-6 of the largest value."""
    expected = np.asarray(expected)
    assert got.dtype == expected.dtype and got.shape == expected.shape
    scale = np.abs(expected).max() if scale is None else scale
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * max(float(scale), 1e-12))


def requests_of(path):
    """(model, signature, inputs) of each warm-up request, parsed from the file."""
    parsed = []
    for record in tf.data.TFRecordDataset(os.path.join(path, warmup_requests.WARMUP_REQUESTS)):
        log = warmup_requests.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        inputs = {
            key: tf.make_ndarray(tf.make_tensor_proto(0).FromString(value))
            for key, value in request.inputs.items()
        }
        parsed.append((request.model_spec.name, request.model_spec.signature_name, inputs))
    return parsed
