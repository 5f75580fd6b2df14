"""What remove-and-retrain refuses, in one sentence that names the argument."""

import functools

import keras
import numpy as np
import pytest

from tests.helpers.retraining_cases import SHAPE, TEST, TRAIN, build, patch, patched, retrained
from tfgrad import data
from tfgrad.errors import ArgumentError, ModelError


def uncompiled():
    return keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(3)])


@functools.cache
def the_same():
    return build()


def unbuilt():
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    return model


def two_outputs():
    x = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(x)
    model = keras.Model(x, [keras.layers.Dense(3)(flat), keras.layers.Dense(3)(flat)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fractions": (1.5,)}, ArgumentError, r"fractions: got \[1.5\]"),
        ({"fractions": ()}, ArgumentError, r"fractions: got \[\]"),
        ({"seeds": (0.5,)}, ArgumentError, "seeds: got 0.5; expected an integer ≥ 0"),
        ({"seeds": (-1,)}, ArgumentError, "seeds: got -1"),
        ({"seeds": 3}, ArgumentError, "seeds: got 3; expected integers ≥ 0"),
        ({"seeds": ()}, ArgumentError, "seeds: got none"),
        ({"epochs": 0}, ArgumentError, "epochs: got 0"),
        ({"batch_size": 0}, ArgumentError, "batch_size: got 0"),
        ({"remove": "all"}, ArgumentError, "remove: got 'all'"),
        ({"fill": "black"}, ArgumentError, "fill: got 'black'"),
        ({"fill": 128}, ArgumentError, r"fill: got 128; .* a number in \[0, 1\]"),
        ({"fill": (0, 0, 0)}, ArgumentError, r"fill: got \(0, 0, 0\).* 2 channels"),
        ({"fill": np.nan}, ArgumentError, "fill: got nan"),
        ({"maps": {}}, ArgumentError, r"maps: got \[\]; expected {method"),
        ({"maps": patch(TRAIN)}, ArgumentError, "maps: got ndarray; expected {method"),
        ({"maps": {"m": patch(TRAIN)}}, ArgumentError, "maps: got a ndarray for 'm'; .* a pair"),
        ({"maps": {"m": "noise"}}, ArgumentError, "maps: got a str for 'm'"),
        (
            {"maps": {"m": (patch(TRAIN), patch(TEST)[:, :5])}},
            ArgumentError,
            r"maps: 'm', test images: got float32 \(120, 5, 6\); expected numbers \(120, 6, 6\)",
        ),
        (
            {"maps": {"m": (patch(TRAIN - 1), "random")}},
            ArgumentError,
            r"maps: 'm', training images: got float32 \(239, 6, 6\)",
        ),
        (
            {"maps": {"m": (np.zeros((0, 6, 6)), "random")}},
            ArgumentError,
            r"training images: got float64 \(0, 6, 6\)",
        ),
        ({"builder": None}, ArgumentError, "build: got a NoneType; expected a function"),
        ({"builder": lambda: None}, ArgumentError, "build: got a NoneType; expected a compiled"),
        ({"builder": uncompiled}, ArgumentError, "build: got a model that is not compiled"),
        ({"builder": unbuilt}, ArgumentError, "build: got a model that is not built"),
        ({"builder": the_same}, ArgumentError, "build: got the same model again"),
        ({"builder": two_outputs}, ModelError, "got 2 outputs"),
        ({"builder": lambda: build(classes=4)}, ArgumentError, "a model of 4 classes for 3"),
        (
            {"builder": lambda: build(shape=(5, 6, 2))},
            ArgumentError,
            r"train: got shape \(None, 6, 6, 2\); the model that build\(\) returned takes",
        ),
        ({"sets": (patched(9, 0), np.zeros(3))}, ArgumentError, "test: got a ndarray"),
        (
            {"sets": (patched(9, 0), data.from_arrays(np.zeros((9, 6, 5, 2)), np.arange(9) % 3))},
            ArgumentError,
            r"test: got images \(6, 5, 2\) of 3 classes; expected \(6, 6, 2\)",
        ),
    ],
)
def test_bad_arguments(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        retrained(tmp_path, **{"maps": {"random": "random"}, **arguments})
