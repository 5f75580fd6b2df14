"""Where the middle cells of keras.applications look: the table of docs/saliency.md."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad.saliency import GradCAM

SIDE, CLASSES = 224, 10
NETWORKS = (
    "VGG16",
    "DenseNet121",
    "ResNet50V2",
    "MobileNetV2",
    "EfficientNetB0",
    "InceptionV3",
    "Xception",
)


def last_map(network):
    """The network up to its last feature map."""
    maps = [layer for layer in network.layers if len(layer.output.shape) == 4]
    return keras.Model(network.inputs, maps[-1].output)


def measured(features):
    """Rows of the centre of mass of squared and of absolute gradients of the middle cell."""
    random = np.random.default_rng(0)
    images = tf.constant(random.normal(size=(6, SIDE, SIDE, 3)), tf.float32)
    middle = features.output_shape[1] // 2
    weights = tf.constant(random.normal(size=(6, features.output_shape[-1])), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(images)
        cell = tf.reduce_sum(features(images, training=False)[:, middle, middle] * weights)
    gradient = tape.gradient(cell, images).numpy().astype("float64")
    rows = np.arange(SIDE)
    for shares in (gradient**2, abs(gradient)):
        shares = shares.sum(-1)
        shares /= shares.sum((1, 2), keepdims=True)
        yield float((shares.sum((0, 2)) + shares.sum((0, 1))) @ rows / 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_middle_cell_is_where_its_gradients_are(name):
    build = getattr(keras.applications, name)
    network = build(
        weights=None, input_shape=(SIDE, SIDE, 3), classes=CLASSES, classifier_activation=None
    )
    features = last_map(network)
    method = GradCAM(network, layer=features.layers[-1].name)
    method(np.zeros([1, SIDE, SIDE, 3], "float32"), target=0)
    (places,) = method._places.values()
    rows = places.grids["features"].rows.centres
    placed = rows[len(rows) // 2]
    squared, absolute = measured(features)
    stretched = (SIDE - 1) / 2
    print(f"{name}: {stretched} stretched, {placed:.1f} placed, {squared:.1f} ({absolute:.1f})")
    # Squared gradients weigh the branches of a network otherwise than absolute ones do.
    assert min(squared, absolute) - 1 < placed < max(squared, absolute) + 1
