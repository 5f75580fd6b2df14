"""What tests of remove-and-retrain share: images whose label a patch carries, a small network."""

import keras
import numpy as np

import tfgrad
from tfgrad import data
from tfgrad.evaluation import remove_and_retrain

SHAPE = (6, 6, 2)
PIXELS = 36
TRAIN, TEST, CLASSES = 240, 120, 3
QUICK = {"epochs": 1, "batch_size": 60, "fractions": (0.25,)}


def patched(n, seed):
    """Noise, and in a 3×3 corner, a quarter of the pixels, a colour that tells the class."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *SHAPE), np.uint8)
    labels = np.arange(n) % CLASSES
    colours = np.array([[40, 220], [220, 40], [220, 220]], np.uint8)
    images[:, :3, :3] = colours[labels][:, None, None] - rng.integers(0, 30, (n, 3, 3, 2), np.uint8)
    return data.from_arrays(images, labels, classes="abc")


def patch(n):
    maps = np.zeros((n, 6, 6), np.float32)
    maps[:, :3, :3] = 1
    return maps


def build(units=16, rate=0.01, penalty=0.0, dropout=0.0, classes=CLASSES, shape=SHAPE):
    noisy = [tfgrad.layers.BatchNormalization(), keras.layers.Dropout(dropout)] if dropout else []
    network = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="softplus"),
            *noisy,
            keras.layers.Dense(classes),
        ]
    )
    model = network
    if penalty:
        model = tfgrad.PenalizedModel(network, [tfgrad.penalties.ScoreMatching(penalty)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def retrained(directory, maps, builder=build, **options):
    train, test = options.pop("sets", (patched(TRAIN, 0), patched(TEST, 1)))
    return remove_and_retrain(builder, train, test, maps, directory, **{**QUICK, **options})
