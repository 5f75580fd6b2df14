"""Custom gradients of an exported network: written for its outputs, not for its explanations."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfgrad import export

METHODS = ("fullgrad", "input_gradient", "integrated_gradients", "smoothgrad", "gradcam")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(4, 3, activation="silu", bias_initializer="normal"),
            keras.layers.Conv2D(4, 3, activation="silu", bias_initializer="normal"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    return export.save(network, directory, METHODS, image_range=(0, 1), warmup=False)


@pytest.mark.long
def test_one_function_is_written_for_each_custom_gradient_of_the_network(path):
    written = saved_model_pb2.SavedModel()
    with open(f"{path}/saved_model.pb", "rb") as file:
        written.ParseFromString(file.read())
    assert len(written.meta_graphs[0].graph_def.library.registered_gradients) == 2  # two silu


def test_logits_are_differentiated_and_explanations_refuse_it(network, path):
    loaded = tf.saved_model.load(path)
    signatures = loaded.signatures
    x = tf.constant(np.random.default_rng(0).uniform(size=(2, 6, 6, 3)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = signatures["serving_default"](image=x)["logits"]
    with tf.GradientTape() as live:
        live.watch(x)
        expected = network(x, training=False)
    np.testing.assert_allclose(
        tape.gradient(logits, x), live.gradient(expected, x), rtol=1e-5, atol=1e-7
    )
    for name in METHODS:
        with tf.GradientTape() as tape, pytest.raises(LookupError, match="logits of serving_def"):
            tape.watch(x)
            found = signatures[name](image=x, target=tf.constant([0, 1]))["saliency"]
            tape.gradient(found, x)


@pytest.mark.long
def test_explanations_without_custom_gradients_are_differentiated(tmp_path):
    network = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2, activation="tanh")]
    )
    path = export.save(network, tmp_path, ["input_gradient"], warmup=False, image_range=(0, 1))
    loaded = tf.saved_model.load(path)
    x = tf.constant(np.random.default_rng(0).uniform(size=(2, 4, 4, 1)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = loaded.signatures["input_gradient"](image=x, target=tf.constant([0, 1]))["saliency"]
    assert np.abs(tape.gradient(found, x)).max() > 0
