"""Every broken or unsafe SavedModel becomes one clear ModelError; nothing in it runs."""

import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.helpers.loading_cases import build, truncated
from tfgrad import export, loading
from tfgrad.errors import ModelError

# Keras converts TensorFlow tensors with np.array, whose copy protocol NumPy 2 wants extended.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A sound SavedModel, to be broken in copies."""
    directory = tmp_path_factory.mktemp("good")
    network = build()
    export.save(network, directory / "served", classes=["a", "b", "c"], image_range=(0, 1))
    return directory, network


# --- what works -------------------------------------------------------------------------------


@pytest.mark.long
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


def test_a_table_that_is_filled_in_memory(tmp_path):
    words = keras.layers.StringLookup(vocabulary=["a", "b"])
    inputs = keras.Input((1,), dtype="string")
    embedded = keras.layers.Embedding(3, 2)(words(inputs))
    keras.Model(inputs, embedded).export(str(tmp_path / "words"), verbose=False)
    serve = loading.load_served(tmp_path / "words").signatures["serving_default"]
    assert serve(tf.constant([["b"]]))["output_0"].shape == (1, 1, 2)


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
    assert text.startswith(f"path: {str(path)!r} cannot be loaded: got ")
    assert "; expected " in text and ". Try: " in text
    assert len(text) < 1000


def test_a_savedmodel_given_to_load(good):
    with pytest.raises(ModelError, match="load_served"):
        loading.load(good[0] / "served")
