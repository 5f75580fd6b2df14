"""Every broken or unsafe `.keras` file becomes one clear ModelError; nothing in it runs."""

import json
import os
import shutil
import struct
import zipfile

import h5py
import keras
import numpy as np
import pytest

from tests.helpers.loading_cases import build, members, pack, repacked, truncated, weights
from tfgrad import loading
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.training import PenalizedModel

# Keras converts TensorFlow tensors with np.array, whose copy protocol NumPy 2 wants extended.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A sound `.keras` file, to be broken in copies."""
    directory = tmp_path_factory.mktemp("good")
    network = build()
    network.save(directory / "good.keras")
    return directory, network


# --- what works -------------------------------------------------------------------------------


def test_a_sound_file(good):
    directory, network = good
    x = np.ones((2, 4, 4, 1), "float32")
    np.testing.assert_array_equal(loading.load(directory / "good.keras")(x), network(x))


@pytest.mark.long
def test_a_penalized_model_goes_on_training(tmp_path):
    model = PenalizedModel(build())
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.ones((4, 4, 4, 1), "float32"), np.array([0, 1, 2, 0])
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = loading.load(tmp_path / "model.keras")
    assert isinstance(loaded, PenalizedModel) and loaded.compiled
    loaded.fit(x, y, verbose=0)
    assert not loading.load(tmp_path / "model.keras", compile=False).compiled


def test_operations_and_functions_of_keras(tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 3, padding="same", kernel_regularizer="l2")(inputs) + inputs
    x = keras.ops.mean(keras.ops.relu(x), axis=(1, 2))
    network = keras.Model(inputs, keras.layers.Dense(3, activation=keras.activations.gelu)(x))
    nested = keras.Sequential([keras.Input((8, 8, 1)), network, keras.layers.Dense(2)])
    nested.save(tmp_path / "nested.keras")
    image = np.ones((1, 8, 8, 1), "float32")
    loaded = loading.load(tmp_path / "nested.keras")
    np.testing.assert_array_equal(loaded(image), nested(image))


def test_classes_registered_in_this_process(tmp_path):
    @keras.saving.register_keras_serializable("test_loading")
    class Twice(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    keras.Sequential([keras.Input((2,)), Twice()]).save(tmp_path / "own.keras")
    assert isinstance(loading.load(tmp_path / "own.keras").layers[0], Twice)


# --- broken files -----------------------------------------------------------------------------


def without(name):
    return repacked(lambda c: c.pop(name))


def replaced(name, data, **kwargs):
    return repacked(lambda c: c.update({name: data}), **kwargs)


def config(edit):
    """A breaker that edits the serialised head layer, or the whole config."""

    def change(contents):
        value = json.loads(contents[CONFIG])
        edit(value["config"]["layers"][-1], value)
        contents[CONFIG] = json.dumps(value)

    return repacked(change)


def head(**entries):
    return config(lambda layer, _: layer.update(entries))


def activation(module, name):
    entry = {"module": module, "class_name": "function", "config": name, "registered_name": name}
    return config(lambda layer, _: layer["config"].update(activation=entry))


def resized(file):
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = np.zeros((5, 3), "float32")


def huge(file):
    del file["layers/dense/vars/0"]
    file.create_dataset("layers/dense/vars/0", (1 << 16, 1 << 16), "f4", chunks=(64, 64))


def changed(index, **kwargs):
    """A breaker that writes an array of the network anew."""

    def edit(file):
        name = f"layers/dense/vars/{index}"
        shape = file[name].shape
        del file[name]
        file.create_dataset(name, shape, **kwargs)

    return weights(edit)


def partly(file):
    name = "layers/dense/vars/0"
    rows, columns = file[name].shape
    del file[name]
    array = file.create_dataset(name, (rows, columns), "f4", chunks=(2, columns))
    array[: rows // 2] = 1.0


def flipped(path):
    """One bit in the stored weights, which the archive's checksum notices."""
    data = bytearray(path.read_bytes())
    data[data.index(b"\x89HDF") + 3000] ^= 1
    path.write_bytes(data)


def declared(stored, unpacked):
    """A breaker that changes the sizes a member declares."""

    def apply(path):
        pack(path, members(path) | {"assets/x": bytes(100)})
        data = bytearray(path.read_bytes())
        sizes = data.rindex(b"PK\x01\x02") + 20
        data[sizes : sizes + 8] = struct.pack("<II", stored, unpacked)
        path.write_bytes(data)

    return apply


def encrypted(path):
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)


def twice(path):
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CONFIG, members(path)[CONFIG])


LAMBDA = {
    "class_name": "__lambda__",
    "config": {"code": "4wAAAAA=", "defaults": None, "closure": None},
}
VERSION_2 = json.dumps({"keras_version": "2.15.0"})

BROKEN = {
    "missing": (os.remove, "no such file.*check the path"),
    "directory": (
        lambda p: (os.remove(p), p.mkdir()),
        "a directory; expected a .keras or .h5 file",
    ),
    "empty": (truncated(0), "an empty file.*interrupted"),
    "cut early": (truncated(0.02), "a damaged zip archive.*copy or export it again"),
    "cut late": (truncated(0.99), "a damaged zip archive"),
    "text": (lambda p: p.write_text("<html>404</html>"), "not a zip archive"),
    "flipped bit": (flipped, "damaged zip archive.*Bad CRC-32"),
    "encrypted": (encrypted, "damaged zip archive.*(encrypted|password)"),
    "HDF5": (lambda p: h5py.File(p, "w").close(), "an HDF5 file of another name.*rename"),
    "no config": (without(CONFIG), "an archive without config.json"),
    "no metadata": (without(METADATA), "an archive without metadata.json"),
    "no weights": (without(WEIGHTS), "an archive without model.weights.h5"),
    "member twice": (twice, "the member 'config.json' twice"),
    "parent": (replaced("../evil", b""), r"leaves the archive, '\.\./evil'"),
    "absolute": (replaced("/etc/evil", b""), "leaves the archive, '/etc/evil'"),
    "drive": (replaced("C:evil", b""), "leaves the archive"),
    "bomb": (
        replaced(WEIGHTS, bytes(4 << 20), compression=zipfile.ZIP_DEFLATED),
        "unpacks from .* to 4194304 bytes.*decompression bomb",
    ),
    "declared size": (declared(100, 2 << 30), "unpacks from 100 to .*decompression bomb"),
    "overlap": (declared(1 << 30, 1 << 30), "a zip archive whose members overlap"),
    "config is no JSON": (replaced(CONFIG, b'{"a":'), "config.json that is not JSON"),
    "config is a list": (replaced(CONFIG, b"[]"), "config.json that holds a list"),
    "config is binary": (replaced(CONFIG, b"\xff\xfe\x00"), "config.json that is not JSON"),
    "config is deep": (replaced(CONFIG, b'{"a":' * 200_000), "config.json that is not JSON"),
    "config is empty": (replaced(CONFIG, b"{}"), "a config.json without a model"),
    "Keras 2": (replaced(METADATA, VERSION_2), "a model of Keras 2.15.0; expected Keras 3"),
    "no version": (replaced(METADATA, b"{}"), "a model of Keras None"),
    "Lambda": (head(class_name="Lambda"), "a Lambda layer.*never loaded.*layer of its own"),
    "lambda": (
        config(lambda layer, _: layer["config"].update(activation=LAMBDA)),
        "a Python lambda",
    ),
    "TFSMLayer": (head(class_name="TFSMLayer"), "a TFSMLayer, which runs another SavedModel"),
    "TorchModuleWrapper": (head(class_name="TorchModuleWrapper"), "carries a pickle"),
    "JaxLayer": (head(class_name="JaxLayer"), "another backend"),
    "os": (head(module="os", class_name="system"), "os.system, which belongs neither to Keras"),
    "unregistered": (
        head(module="their.code", class_name="Layer", registered_name="their>Layer"),
        "their.code.Layer, which belongs neither to Keras nor tfgrad.*import the module",
    ),
    "keras_hub": (head(module="keras_hub.layers"), "keras_hub.layers.Dense, which belongs neither"),
    "kerasevil": (head(module="kerasevil"), "kerasevil.Dense, which belongs neither"),
    "utility": (activation("keras.utils", "get_file"), "keras.utils.function"),
    "loader": (activation("keras.models", "load_model"), "keras.models.function"),
    "unsafe mode": (
        activation("keras.config", "enable_unsafe_deserialization"),
        "keras.config.function",
    ),
    "unknown class": (head(class_name="Dance"), "cannot build.*Dance"),
    "class is no name": (head(class_name=["Dense"]), r"a config whose class is \['Dense'\]"),
    "vocabulary": (
        head(class_name="StringLookup", config={"vocabulary": "/etc/passwd"}),
        "a StringLookup that reads its vocabulary from the file '/etc/passwd'",
    ),
    "a layer": (config(lambda layer, whole: whole.update(layer)), "a saved Dense|cannot build"),
    "loss": (
        config(
            lambda _, whole: whole.update(
                compile_config={"loss": {"class_name": "X", "module": "x"}}
            )
        ),
        "x.X, which belongs neither",
    ),
    "weights are no HDF5": (replaced(WEIGHTS, b"hello"), "a damaged model.weights.h5"),
    "weights cut": (
        repacked(lambda c: c.update({WEIGHTS: c[WEIGHTS][:4000]})),
        "a damaged model.weights.h5",
    ),
    "weights of another shape": (weights(resized), "cannot build.*belong to another model"),
    "never written": (changed(0, dtype="f4"), "declared but never written.*'/layers/dense/vars/0"),
    "partly written": (weights(partly), "declared but never written whole"),
    "complex": (changed(1, data=np.full(3, 1 + 2j)), "complex values for a real weight"),
    "weights absent": (weights(lambda f: f.pop("layers/dense")), "cannot build"),
    "declared shape": (weights(huge), "declaring .* bytes"),
    "external link": (
        weights(lambda f: f.update({"x": h5py.ExternalLink("/etc/passwd", "/")})),
        "a link to elsewhere in model.weights.h5, 'x'",
    ),
    "soft link": (weights(lambda f: f.update({"x": h5py.SoftLink("/layers")})), "a link to els"),
    "external data": (
        weights(lambda f: f.create_dataset("x", (4,), "i1", external=[("/etc/passwd", 0, 4)])),
        "data outside model.weights.h5, 'x'",
    ),
    "NaN": (
        weights(lambda f: f["layers/dense/vars/1"].write_direct(np.full(3, np.nan, "float32"))),
        "NaN or infinite values in the weight .*bias.*earlier checkpoint",
    ),
}


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(good, tmp_path, case):
    path = tmp_path / "model.keras"
    shutil.copy(good[0] / "good.keras", path)
    breaker, message = BROKEN[case]
    breaker(path)
    with pytest.raises(ModelError, match=message) as caught:
        loading.load(path)
    text = str(caught.value)
    assert text.startswith(f"path: {str(path)!r} cannot be loaded: got ")
    assert "; expected " in text and ". Try: " in text
    assert len(text) < 1000


def test_another_extension(good, tmp_path):
    shutil.copy(good[0] / "good.keras", tmp_path / "model.zip")
    with pytest.raises(ModelError, match=r"does not end in .keras.*rename"):
        loading.load(tmp_path / "model.zip")


def test_more_than_fits(good, tmp_path):
    with pytest.raises(ModelError, match=r"a file of .* GiB; expected at most .*limit_bytes="):
        loading.load(good[0] / "good.keras", limit_bytes=1000)
    path = shutil.copy(good[0] / "good.keras", tmp_path / "packed.keras")
    pack(path, members(path), zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match=r"members of .* GiB unpacked; expected at most"):
        loading.load(path, limit_bytes=os.path.getsize(path))
    with pytest.raises(ArgumentError, match="limit_bytes: got 0"):
        loading.load(path, limit_bytes=0)


def test_another_backend(good, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ModelError, match=r"running on jax; expected tensorflow.*KERAS_BACKEND"):
        loading.load(good[0] / "good.keras")


def test_a_file_given_to_load_served(good):
    with pytest.raises(
        ModelError, match=r"a file; expected the directory of a SavedModel.*loading.load"
    ):
        loading.load_served(good[0] / "good.keras")
