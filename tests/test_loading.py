"""Every broken or unsafe file becomes one clear ModelError; nothing in it runs."""

import io
import json
import os
import shutil
import struct
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfgrad import export, layers, loading
from tfgrad.errors import ModelError
from tfgrad.training import PenalizedModel

# Keras converts TensorFlow tensors with np.array, whose copy protocol NumPy 2 wants extended.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


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


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A sound `.keras` file and a sound SavedModel, to be broken in copies."""
    directory = tmp_path_factory.mktemp("good")
    network = build()
    network.save(directory / "good.keras")
    export.save(network, directory / "served", classes=["a", "b", "c"])
    return directory, network


# --- what works -------------------------------------------------------------------------------


def test_a_sound_file(good):
    directory, network = good
    x = np.ones((2, 4, 4, 1), "float32")
    np.testing.assert_array_equal(loading.load(directory / "good.keras")(x), network(x))


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


def test_served_models(good):
    directory, network = good
    x = tf.ones((2, 4, 4, 1))
    for path in (directory / "served", directory / "served" / "1"):
        served = loading.load_served(path)
        assert served.path == str(directory / "served" / "1")
        assert served.metadata["classes"] == ["a", "b", "c"]
        logits = served.signatures["serving_default"](image=x)["logits"]
        np.testing.assert_allclose(logits, network(x), atol=1e-6)


def test_the_highest_version_is_taken(good, tmp_path):
    for version in ("9", "10", ".tmp-11-1-1"):
        shutil.copytree(good[0] / "served" / "1", tmp_path / version)
    assert loading.load_served(tmp_path).path == str(tmp_path / "10")


def test_a_savedmodel_of_plain_keras(tmp_path):
    build().export(str(tmp_path / "plain"), verbose=False)
    served = loading.load_served(tmp_path / "plain")
    assert served.metadata == {} and "serving_default" in served.signatures


# --- broken .keras files ----------------------------------------------------------------------


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


def weights(edit):
    def change(contents):
        buffer = io.BytesIO(contents[WEIGHTS])
        with h5py.File(buffer, "r+") as file:
            edit(file)
        contents[WEIGHTS] = buffer.getvalue()

    return repacked(change)


def resized(file):
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = np.zeros((5, 3), "float32")


def huge(file):
    del file["layers/dense/vars/0"]
    file.create_dataset("layers/dense/vars/0", (1 << 16, 1 << 16), "f4", chunks=(64, 64))


def truncated(fraction):
    def apply(path):
        size = os.path.getsize(path)
        with open(path, "r+b") as file:
            file.truncate(int(size * fraction))

    return apply


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
    "directory": (lambda p: (os.remove(p), p.mkdir()), "a directory, expected a .keras file"),
    "empty": (truncated(0), "an empty file.*interrupted"),
    "cut early": (truncated(0.02), "a damaged zip archive.*copy or export it again"),
    "cut late": (truncated(0.99), "a damaged zip archive"),
    "text": (lambda p: p.write_text("<html>404</html>"), "not a zip archive"),
    "flipped bit": (flipped, "damaged zip archive.*Bad CRC-32"),
    "encrypted": (encrypted, "damaged zip archive.*(encrypted|password)"),
    "HDF5": (lambda p: h5py.File(p, "w").close(), r"an HDF5 file.*Keras 2.*load_weights"),
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
    "Keras 2": (replaced(METADATA, VERSION_2), "a model of Keras 2.15.0, expected Keras 3"),
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


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(good, tmp_path, case):
    path = tmp_path / "model.keras"
    shutil.copy(good[0] / "good.keras", path)
    breaker, message = BROKEN[case]
    breaker(path)
    with pytest.raises(ModelError, match=message) as caught:
        loading.load(path)
    text = str(caught.value)
    assert text.startswith(f"path: {str(path)!r} cannot be loaded: found ") and "Try: " in text
    assert len(text) < 1000


def test_another_extension(good, tmp_path):
    shutil.copy(good[0] / "good.keras", tmp_path / "model.zip")
    with pytest.raises(ModelError, match=r"does not end in .keras.*rename"):
        loading.load(tmp_path / "model.zip")


def test_more_than_fits(good, monkeypatch):
    monkeypatch.setattr(loading, "MAX_BYTES", 1000)
    with pytest.raises(ModelError, match=r"members of 0.0 GiB unpacked, expected at most"):
        loading.load(good[0] / "good.keras")


def test_a_savedmodel_given_to_load(good):
    with pytest.raises(ModelError, match="load_served"):
        loading.load(good[0] / "served")


def test_another_backend(good, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ModelError, match=r"running on jax, expected tensorflow.*KERAS_BACKEND"):
        loading.load(good[0] / "good.keras")


# --- broken SavedModels -----------------------------------------------------------------------


def graph(edit):
    """A breaker that edits the meta graph."""

    def apply(path):
        name = path / "saved_model.pb"
        model = saved_model_pb2.SavedModel.FromString(name.read_bytes())
        edit(model.meta_graphs[0])
        name.write_bytes(model.SerializeToString())

    return apply


def operation(name):
    """A breaker that puts an operation into the body of a signature's function."""

    def edit(meta_graph):
        function = next(
            f
            for f in meta_graph.graph_def.library.function
            if "signature_wrapper" in f.signature.name
        )
        function.node_def.add(name="planted", op=name)

    return graph(edit)


def call_the_saver(meta_graph):
    """A signature that calls the function which writes checkpoints."""
    functions = meta_graph.graph_def.library.function
    saver = next(f for f in functions if any(n.op == "SaveV2" for n in f.node_def))
    victim = next(f for f in functions if "signature_wrapper" in f.signature.name)
    node = victim.node_def.add(name="planted", op="StatefulPartitionedCall")
    node.attr["f"].func.name = saver.signature.name


def exported(make):
    """A breaker that exports a module of its own, with the operation in place."""

    def apply(path):
        shutil.rmtree(path)
        module = tf.Module()
        module.scale = tf.Variable(1.0)
        function = tf.function(
            lambda x: {"y": make(x) * module.scale}, input_signature=[tf.TensorSpec([None])]
        )
        tf.saved_model.save(module, str(path), signatures={"serving_default": function})

    return apply


def cut(name, fraction):
    return lambda path: truncated(fraction)(path / name)


def nan_weights(path):
    shutil.rmtree(path)
    module = tf.Module()
    module.scale = tf.Variable(np.nan)
    function = tf.function(lambda x: x * module.scale, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(module, str(path), signatures=function)


def read(x):
    return tf.strings.to_number(tf.io.read_file("/etc/hostname")) + x


def python(x):
    return tf.numpy_function(lambda v: v, [x], tf.float32)


def printing(x):
    with tf.control_dependencies([tf.print("x", output_stream="file:///never-written")]):
        return tf.identity(x)


INDEX, DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"
BROKEN_SERVED = {
    "missing": (shutil.rmtree, "no such directory"),
    "empty": (lambda p: (shutil.rmtree(p), p.mkdir()), "neither saved_model.pb nor a numbered"),
    "no graph": (lambda p: os.remove(p / "saved_model.pb"), "neither saved_model.pb nor"),
    "empty graph": (cut("saved_model.pb", 0), r"without a graph \(0 bytes\)"),
    "graph cut": (cut("saved_model.pb", 0.5), "a damaged saved_model.pb"),
    "graph is text": (
        lambda p: (p / "saved_model.pb").write_text("<html>404</html>"),
        "saved_model.pb",
    ),
    "no variables": (lambda p: shutil.rmtree(p / "variables"), "no variables.variables.index"),
    "no index": (lambda p: os.remove(p / INDEX), "no variables.variables.index"),
    "index cut": (cut(INDEX, 0.5), "damaged variables"),
    "index empty": (cut(INDEX, 0), "damaged variables"),
    "no data": (lambda p: os.remove(p / DATA), "damaged variables"),
    "data cut": (cut(DATA, 0.5), "damaged (variables|SavedModel)"),
    "data empty": (cut(DATA, 0), "damaged variables"),
    "NaN": (nan_weights, "NaN or infinite values in the weight scale"),
    "no signature": (
        graph(lambda g: g.signature_def.pop("serving_default")),
        r"no signature serving_default \(it has: encoded, fullgrad, input_gradient\)",
    ),
    "TensorFlow 1": (
        graph(lambda g: g.ClearField("object_graph_def")),
        "SavedModel of TensorFlow 1",
    ),
    "object graph lost": (
        graph(lambda g: g.object_graph_def.nodes[0].children.clear()),
        "a damaged SavedModel",
    ),
    "asset outside": (
        graph(lambda g: g.asset_file_def.add(filename="../../passwd")),
        r"an asset outside it, '../../passwd'",
    ),
    "metadata cut": (cut("assets.extra/tfgrad.json", 0.5), "tfgrad.json that is not JSON"),
    "reads a file": (exported(read), r"the operation ReadFile .*reaches outside the model"),
    "runs Python": (exported(python), "the operation (Eager)?PyFunc"),
    "prints": (exported(printing), "the operation PrintV2"),
    "saves in a signature": (operation("SaveV2"), "the operation SaveV2"),
    "calls the saver": (graph(call_the_saver), "the operation SaveV2"),
    "main graph": (
        graph(lambda g: g.graph_def.node.add(name="planted", op="WriteFile")),
        "the operation WriteFile",
    ),
    "unknown operation": (operation("TheirOwnOp"), "a damaged SavedModel.*TheirOwnOp"),
} | {
    name: (operation(name), f"the operation {name} ")
    for name in [
        "WriteFile",
        "MatchingFiles",
        "EagerPyFunc",
        "PyFuncStateless",
        "Save",
        "RestoreV2",
        "MergeV2Checkpoints",
        "TFRecordDataset",
        "IteratorGetNext",
        "WholeFileReaderV2",
        "InitializeTableFromTextFileV2",
        "Print",
        "DebugIdentityV3",
        "CreateSummaryFileWriter",
        "RemoteCall",
        "_Recv",
        "LoadAndRemapMatrix",
        "XlaCallModule",
    ]
}


@pytest.mark.parametrize("case", BROKEN_SERVED)
def test_broken_savedmodels(good, tmp_path, case):
    path = tmp_path / "1"
    shutil.copytree(good[0] / "served" / "1", path)
    breaker, message = BROKEN_SERVED[case]
    breaker(path)
    with pytest.raises(ModelError, match=message) as caught:
        loading.load_served(path)
    text = str(caught.value)
    assert text.startswith(f"path: {str(path)!r} cannot be loaded: found ") and "Try: " in text
    assert len(text) < 1000


def test_a_file_given_to_load_served(good):
    with pytest.raises(ModelError, match=r"a file, expected a SavedModel directory.*loading.load"):
        loading.load_served(good[0] / "good.keras")
