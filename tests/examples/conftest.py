"""What the tests of the examples share: an exported model, and the examples as modules."""

import importlib.util
import pathlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad import export

SERVERS = pathlib.Path(__file__).parents[2] / "examples/servers"


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The version's directory of a small model with ONNX files for batches of two."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((6, 5, 3)),
            layers.Conv2D(4, 3, activation="relu", bias_initializer="normal"),
            layers.Flatten(),
            layers.Dense(3, bias_initializer="normal"),
        ],
        name="small",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the converters
        return export.save(
            network,
            tmp_path_factory.mktemp("served") / "small",
            ["fullgrad", "input_gradient"],
            image_range=(0, 1),
            outputs="exclusive",
            formats=("saved_model", "onnx"),
            batch_size=2,
        )


@pytest.fixture(scope="session")
def signatures(exported):
    return tf.saved_model.load(exported).signatures


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(1).uniform(size=(3, 6, 5, 3)).astype("float32")


@pytest.fixture
def example():
    """Function from the name of a file in examples/servers to its module, imported anew."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, SERVERS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
