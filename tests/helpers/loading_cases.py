"""The network that is saved and broken, and a way of breaking any file."""

import io
import os
import zipfile

import h5py
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


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def repacked(change, compression=zipfile.ZIP_STORED):
    """A breaker that edits the members of the archive."""

    def apply(path):
        contents = members(path)
        change(contents)
        pack(path, contents, compression)

    return apply


def weights(edit):
    def change(contents):
        buffer = io.BytesIO(contents["model.weights.h5"])
        with h5py.File(buffer, "r+") as file:
            edit(file)
        contents["model.weights.h5"] = buffer.getvalue()

    return repacked(change)
