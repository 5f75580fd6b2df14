"""The network that is saved and broken, and a way of breaking any file."""

import os

import keras

from tfgrad import layers


def build():
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(2, 3, activation="relu"),
            layers.Softplus(beta=2.0),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="head"),
        ],
        name="small",
    )


def truncated(fraction):
    def apply(path):
        size = os.path.getsize(path)
        with open(path, "r+b") as file:
            file.truncate(int(size * fraction))

    return apply
