"""Small runs of apps.distill and apps.transfer, and what is read of their results."""

import dataclasses
import json
import sys

import keras
import numpy as np
import pytest
from absl import flags

from apps.common import (
    command,
)
from tfgrad import data

SMALL = (
    "--network=vgg4",
    "--width=0.125",
    "--per_class=12",
    "--batch_size=50",
    "--progress=none",
    "--noise=0",
)


EPOCHS = 3


TAUGHT = (
    *SMALL,
    "--teacher=vgg4",
    "--teacher_width=0.25",
    "--teacher_epochs=2",
    "--normalize",
    f"--epochs={EPOCHS}",
    "--match_jacobian=0.1",
    "--match_attention=1",
    "--layers=act2",
    "--angle_every=2",
)


def parity(name, split, *args, **kwargs):
    """Digits as they are, or told apart by being odd: two classes that no teacher of ten has."""
    dataset = _load("digits" if name == "parity" else name, split, *args, **kwargs)
    if name != "parity":
        return dataset
    return dataclasses.replace(
        dataset, labels=dataset.labels % 2, classes=("even", "odd"), name="parity"
    )


_load = data.load


def call(module, arguments, what=None):
    """An app's main, or something else, under flags; they are gone afterwards."""
    before, argv = set(flags.FLAGS), sys.argv
    module.define_flags()
    try:
        sys.argv = [f"{module.__name__.replace('.', '/')}.py", *map(str, arguments)]
        if what is not None:
            flags.FLAGS(sys.argv)
            return what()
        with pytest.raises(SystemExit) as exit_:
            command.run(module.main)
        return exit_.value.code or 0
    finally:
        sys.argv = argv
        flags.FLAGS.unparse_flags()
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)


def results_of(directory):
    return json.loads((directory / "results.json").read_text())


def accuracy(directory, labels=None):
    """Of network.keras on the test digits, as results.json says to normalise them."""
    test, results = _load("digits", "test"), results_of(directory)
    mean, deviation = (np.array(s, "float32") for s in results["normalize"])
    network = keras.models.load_model(directory / "network.keras")
    logits = network.predict((test.images - mean) / deviation, verbose=0)
    return np.mean(logits.argmax(1) == (test.labels if labels is None else labels(test)))
