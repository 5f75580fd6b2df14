"""Architectures of `keras.applications` with a new last layer, to be trained on other classes."""

from __future__ import annotations

import os

import keras

from tfgrad.internal.keras_private import flatten_layers
from tfgrad.loading import applications, weight_files
from tfgrad.loading.applications import IMAGENET

HEAD = "head"
# Of the batch normalisation of random features. Weights that start at random move fast, and their
# statistics run behind them through tens of layers: after 60 steps MobileNetV2 has 92 % of its
# training images right by the statistics of the batch; by moving ones 20 % with the momentum 0.9,
# and 89 % with this one. Its own is 0.999.
_MOMENTUM = 0.5


def with_new_head(
    name: str,
    weights: str | os.PathLike[str] | None,
    image_size: tuple[int, int] | None,
    classes: int,
    white: float,
) -> keras.Model:
    """A network that takes pixels and returns logits of classes which it has not learnt yet.

    The preprocessing, the architecture up to its pooled features (one model, a layer of the
    result), and a dense layer with random weights. Where the features are trained, their layers of
    batch normalisation are not trainable: they keep their statistics, scales and offsets. Updates
    by the first steps, in which the new layer is random, would destroy what was learnt. Those of
    random features have a momentum of 0.5 at most, so that short trials have moving statistics.

    Args:
        name: Name of the architecture.
        weights: "imagenet", a file of weights with 1000 classes or without the last layers, or None
            for random ones.
        image_size: (height, width) of the images; None: the architecture's own.
        classes: The number of classes.
        white: The value of a white pixel, 255 or 1.

    Raises:
        ArgumentError: There is no such architecture, or not for images of this size.
        ModelError: The weights cannot be had or loaded.
    """
    applications.builder(name)
    size = image_size or applications.image_size(name)
    features = applications.built(name, weights, size, include_top=False, pooling="avg")
    if weights is not None and weights != IMAGENET:
        weight_files.load_features(
            features, lambda: applications.built(name, None, None), os.fspath(weights)
        )
    for layer in flatten_layers(features):
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        if weights is not None:
            layer.trainable = False
        else:
            layer.momentum = min(layer.momentum, _MOMENTUM)
    head = keras.layers.Dense(classes, name=HEAD)
    return applications.on_pixels(name, features, white, head)
