"""Classes where functions are expected, functions where classes are, and wrong types."""

import json
import shutil
import zipfile

import keras
import pytest

from tests.helpers.loading_cases import build
from tfgrad import loading
from tfgrad.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.keras"
    network = build()
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.save(path)
    return path


def broken(good, tmp_path, change):
    """A copy of the file in which `change` has edited the head's config and the whole one."""
    with zipfile.ZipFile(good) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(contents["config.json"])
    change(config["config"]["layers"][-1]["config"], config)
    contents["config.json"] = json.dumps(config)
    path = shutil.copy(good, tmp_path / "model.keras")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def object_of(module, name, **config):
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


@keras.saving.register_keras_serializable("test_config_checks")
class Registered(keras.layers.Layer):
    pass


@keras.saving.register_keras_serializable("test_config_checks")
def registered(x):
    return x


REGISTERED = "test_config_checks>Registered"
HEAD = {
    "a class as a function": (
        {"activation": function("keras.layers", "Dense")},
        "keras.layers.function 'Dense', which belongs into no model|the class 'Dense' where a func",
    ),
    "a metric as a function": (
        {"activation": function("keras.metrics", "AUC")},
        "the class 'AUC' where a function is expected",
    ),
    "a built-in class as a function": (
        {"activation": function("builtins", "HeNormal")},
        "the class 'HeNormal' where a function is expected",
    ),
    "a registered class as a function": (
        {"activation": function("their.code", REGISTERED)},
        f"the class '{REGISTERED}' where a function is expected",
    ),
    "a registered class by its name": (
        {"activation": REGISTERED},
        f"the class '{REGISTERED}' as 'activation', where a function is expected",
    ),
    "a function as a class": (
        {"kernel_initializer": object_of("keras.activations", "relu")},
        "the function 'relu' where a class is expected",
    ),
    "a registered function as a class": (
        {
            "kernel_initializer": {
                **object_of("their.code", "registered"),
                "registered_name": "test_config_checks>registered",
            }
        },
        "the function 'registered' where a class is expected",
    ),
    "a layer as an initializer": (
        {"kernel_initializer": object_of("keras.layers", "Dense", units=3)},
        "the class 'Dense' as 'kernel_initializer'; expected an initializer",
    ),
    "a loss as an activation": (
        {"activation": object_of("keras.losses", "MeanSquaredError")},
        "the class 'MeanSquaredError' as 'activation'; expected a function or layer",
    ),
    "an optimizer as a regularizer": (
        {"bias_regularizer": object_of("keras.optimizers", "SGD")},
        "the class 'SGD' as 'bias_regularizer'; expected a regularizer",
    ),
    "a function that builds objects": (
        {"activation": function("keras.activations", "deserialize")},
        "keras.activations.function 'deserialize', which belongs into no model",
    ),
    "a function of layers": (
        {"activation": function("keras.layers", "deserialize")},
        "keras.layers.function 'deserialize', which belongs into no model",
    ),
    "a constant of another type": (
        {
            "bias_initializer": {
                "class_name": "__numpy__",
                "config": {"value": ["a"], "dtype": "U9000"},
            }
        },
        "a constant of type 'U9000'; expected one of numbers",
    ),
    "text for a number": ({"units": "many"}, "cannot build.*units=many"),
    "NaN for a number": ({"units": float("nan")}, "cannot build.*units=nan"),
    "a list for a name": ({"name": ["head"]}, "cannot build|damaged archive"),
}


@pytest.mark.parametrize("case", HEAD)
def test_an_argument_of_a_layer(good, tmp_path, case):
    values, message = HEAD[case]
    path = broken(good, tmp_path, lambda head, _: head.update(values))
    with pytest.raises(ModelError, match=message) as caught:
        loading.load(path)
    text = str(caught.value)
    assert "; expected " in text and ". Try: " in text and text.isprintable()


WHOLE = {
    "a layer as a loss": (
        {"loss": object_of("keras.layers", "Dense", units=3)},
        "the class 'Dense' as 'loss'; expected a loss",
    ),
    "a layer as an optimizer": (
        {"optimizer": object_of("keras.layers", "Dense", units=3)},
        "the class 'Dense' as 'optimizer'; expected an optimizer",
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_an_argument_of_compile(good, tmp_path, case):
    values, message = WHOLE[case]
    path = broken(good, tmp_path, lambda _, whole: whole["compile_config"].update(values))
    with pytest.raises(ModelError, match=message):
        loading.load(path)
    assert loading.load(path, compile=False)


def test_functions_and_layers_that_are_activations(good, tmp_path):
    for given in (
        function("keras.ops", "relu"),
        function("builtins", "relu"),
        object_of("keras.layers", "LeakyReLU"),
        function("their.code", "test_config_checks>registered"),
        "relu",
    ):
        path = broken(good, tmp_path, lambda head, _, given=given: head.update(activation=given))
        assert loading.load(path, compile=False).layers[-1].activation is not None
