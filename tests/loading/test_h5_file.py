"""Legacy `.h5` files load as `.keras` files do, with the same checks."""

import json
import pathlib
import shutil

import h5py
import keras
import numpy as np
import pytest

from tests.helpers.loading_cases import build
from tfgrad import loading, models
from tfgrad.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
L = keras.layers
IMAGES = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype("float32")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A sound file of a compiled softmax model, and the model."""
    inner = build()
    network = keras.Sequential([inner, L.BatchNormalization(), L.Softmax()], name="whole")
    network.build((None, 4, 4, 1))
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.fit(IMAGES, np.array([0, 1, 2, 0]), verbose=0)
    path = tmp_path_factory.mktemp("h5") / "good.h5"
    network.save(path)
    return path, network


@pytest.mark.long
@pytest.mark.parametrize("compile", [True, False])
def test_a_sound_file(good, compile):
    path, network = good
    loaded = loading.load(path, compile=compile)
    np.testing.assert_array_equal(loaded(IMAGES), network(IMAGES))
    assert loaded.compiled is compile
    logits = models.logits(loaded)
    np.testing.assert_allclose(keras.ops.softmax(logits(IMAGES)), network(IMAGES), atol=1e-7)


def edited(path, change):
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change(config["config"]["layers"][-1], config, file)
        file.attrs["model_config"] = json.dumps(config).encode()


def as_keras_2_wrote_it(layer, config, file):
    """Class names without modules."""

    def stripped(value):
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if k not in ("module", "build_config")}
            return {k: stripped(v) for k, v in kept.items()}
        return [stripped(v) for v in value] if isinstance(value, list) else value

    config.update(stripped(config))
    for stale in set(config) - {"class_name", "config"}:
        del config[stale]
    file.attrs["keras_version"] = "2.15.0"


def test_a_file_without_modules(good, tmp_path):
    path = shutil.copy(good[0], tmp_path / "old.hdf5")
    edited(path, as_keras_2_wrote_it)
    np.testing.assert_array_equal(loading.load(path)(IMAGES), good[1](IMAGES))


def a_function(layer, config, file):
    as_keras_2_wrote_it(layer, config, file)
    config["config"]["layers"][-1]["class_name"] = "deserialize"


def foreign(layer, config, file):
    layer.update(module="os", class_name="system")


def a_keras_function_with_a_module(layer, config, file):
    layer.update(module="keras.layers", class_name="deserialize")


def linked(layer, config, file):
    file["model_weights"]["x"] = h5py.ExternalLink("/etc/passwd", "x")


def outside(layer, config, file):
    group = file["model_weights"]
    group.create_dataset("x", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def bomb(layer, config, file):
    file["model_weights"].create_dataset("x", (1 << 34,), "f4", chunks=(1 << 20,))


def no_config(layer, config, file):
    del file["model_weights"]


def empty_config(layer, config, file):
    config.clear()


BROKEN = {
    "empty config": (empty_config, "the attribute model_config without a model"),
    "function": (a_function, "the class 'deserialize', which is no layer"),
    "function of a module": (a_keras_function_with_a_module, "deserialize"),
    "foreign": (foreign, "os.system, which belongs neither to Keras nor tfgrad"),
    "link": (linked, "a link to elsewhere in bad.h5, 'x'"),
    "external data": (outside, "data outside bad.h5, 'x'"),
    "declared size": (bomb, "bytes declaring 68"),
    "weights alone": (no_config, "weights alone.*load_weights"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(good, tmp_path, case):
    path = shutil.copy(good[0], tmp_path / "bad.h5")
    breaker, message = BROKEN[case]
    edited(path, breaker)
    with pytest.raises(ModelError, match=message):
        loading.load(path)


def test_layers_in_another_order(tmp_path):
    path = tmp_path / "model.h5"
    layers = [L.Dense(4, name="first"), L.ReLU(), L.Dense(4, name="second")]
    keras.Sequential([keras.Input((4,)), *layers]).save(path)
    assert loading.load(path)
    with h5py.File(path, "r+") as file:
        group = file["model_weights"]
        group.attrs["layer_names"] = group.attrs["layer_names"][::-1]
    with pytest.raises(ModelError, match="'second' in the place of those of 'first'"):
        loading.load(path)


def test_a_lambda_is_not_loaded(tmp_path):
    path = tmp_path / "lambda.h5"
    keras.Sequential([keras.Input((2,)), L.Lambda(lambda x: x)]).save(path)
    with pytest.raises(ModelError, match="a Lambda layer, which carries Python code"):
        loading.load(path)


def test_weights_and_damaged_files(good, tmp_path):
    good[1].save_weights(tmp_path / "own.weights.h5")
    with pytest.raises(ModelError, match="an HDF5 file of weights alone"):
        loading.load(tmp_path / "own.weights.h5")
    short = tmp_path / "short.h5"
    short.write_bytes(pathlib.Path(good[0]).read_bytes()[:5000])
    with pytest.raises(ModelError, match="a damaged HDF5 file"):
        loading.load(short)


def test_nan_weights(tmp_path):
    network = build()
    network.get_layer("head").bias.assign([0.0, np.nan, 0.0])
    network.save(tmp_path / "nan.h5")
    with pytest.raises(ModelError, match=r"NaN or infinite values in the weight .*head/bias"):
        loading.load(tmp_path / "nan.h5")
