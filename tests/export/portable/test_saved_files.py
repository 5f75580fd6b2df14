"""Files of other runtimes: what they compute, how they are named, and what is refused."""

import importlib.util
import json
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad import export, saliency
from tfgrad.errors import ArgumentError, ModelError, PortabilityWarning
from tfgrad.export.portable import litert_files, onnx_files, openvino_files, verification, writing
from tfgrad.export.portable.rewriting import rewritten

L = keras.layers
FORMATS = ("litert", "onnx", "openvino")
MODULES = {"litert": litert_files, "onnx": onnx_files, "openvino": openvino_files}
METHODS = ("fullgrad", "smoothgrad")


def _network(side=12):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((side, side, 3))
    x = L.Conv2D(6, 3, padding="same", use_bias=False)(inputs)
    x = L.Activation("relu6")(L.BatchNormalization()(x))
    x = L.DepthwiseConv2D(3, strides=2, padding="same", activation="silu")(x)
    x = L.Conv2D(8, 3, activation="gelu", bias_initializer="normal")(x)
    x = L.MaxPooling2D(2)(x)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))


def _methods(network):
    return [saliency.FullGrad(network), saliency.SmoothGrad(network, samples=3)]


def _images(count):
    return np.random.default_rng(5).uniform(size=(count, 12, 12, 3)).astype("float32")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network, its methods, and the version's directory with files of a batch of two."""
    network = _network()
    methods = _methods(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the converters
        path = export.save(
            network,
            tmp_path_factory.mktemp("model"),
            methods,
            image_range=(0, 1),
            outputs="exclusive",
            formats=("saved_model", *FORMATS),
            batch_size=2,
        )
    return network, methods, path


@pytest.mark.long
@pytest.mark.parametrize("name", FORMATS)
def test_every_file_computes_the_live_map(exported, name):
    _, methods, path = exported
    inputs = {"image": _images(2), "target": np.int32([2, -1])}
    for method in methods:
        live = method.explain(inputs["image"], inputs["target"])
        got = MODULES[name].run(path, method.name, inputs)
        assert set(got) == set(live.keys())
        for key in ("saliency", "score", "class"):
            value = live[key].numpy()
            scale = np.abs(value).max()
            np.testing.assert_allclose(got[key], value, rtol=0, atol=2e-6 * scale, err_msg=key)


@pytest.mark.slow
def test_further_methods(tmp_path):
    network = _network()
    methods = [
        saliency.IntegratedGradients(network, steps=3),
        saliency.GradCAM(network),
        saliency.InputGradient(network, of="log_probability"),
        saliency.SmoothFullGrad(network, samples=2),
    ]
    options = {"image_range": (0, 1), "outputs": "exclusive", "formats": FORMATS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the converters
        path = export.save(network, tmp_path, methods, **options)
    inputs = {"image": _images(1), "target": np.int32([0])}
    for method in methods:
        live = method(inputs["image"], inputs["target"]).numpy()
        for name in FORMATS:
            got = MODULES[name].run(path, method.name, inputs)["saliency"]
            np.testing.assert_allclose(got, live, rtol=0, atol=3e-6 * np.abs(live).max())


@pytest.mark.parametrize("name", FORMATS)
def test_predictions_have_the_saved_model_s_names(exported, name):
    network, _, path = exported
    got = MODULES[name].run(path, "serving_default", {"image": _images(2)})
    assert set(got) == {"logits", "probabilities"}
    np.testing.assert_allclose(got["logits"], network(_images(2)), atol=1e-5)


def test_the_metadata_say_what_was_measured(exported):
    _, _, path = exported
    with open(os.path.join(path, "assets.extra", "tfgrad.json"), encoding="utf-8") as file:
        said = json.load(file)["formats"]
    assert set(said) == set(FORMATS)
    for name in FORMATS:
        assert said[name]["batch_size"] == 2
        assert set(said[name]["files"]) == {"serving_default", *METHODS}
        assert not said[name]["left_out"]
        assert all(0 <= error <= 1e-4 for error in said[name]["errors"].values())
        for files in said[name]["files"].values():
            assert all(os.path.exists(os.path.join(path, file)) for file in files)
    assert os.path.exists(os.path.join(path, "saved_model.pb"))


def test_openvino_files_ask_for_float32(exported):
    with open(os.path.join(exported[2], "fullgrad.xml"), encoding="utf-8") as file:
        assert '<INFERENCE_PRECISION_HINT value="f32"' in file.read()


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_the_files_need_no_tensorflow(exported, name):
    code = """
import sys, numpy as np
path, name = sys.argv[1:]
given = {"image": np.zeros((2, 12, 12, 3), "float32"), "target": np.int32([0, 0])}
if name == "onnx":
    import onnxruntime
    session = onnxruntime.InferenceSession(path + "/fullgrad.onnx")
    found = session.run(["saliency"], given)[0]
else:
    from ai_edge_litert.interpreter import Interpreter
    runner = Interpreter(path + "/model.tflite").get_signature_runner("fullgrad")
    found = runner(**given)["saliency"]
assert "tensorflow" not in sys.modules and found.shape == (2, 12, 12)
"""
    command = [sys.executable, "-c", code, exported[2], name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_single_format_and_no_saved_model(tmp_path):
    path = export.save(
        _network(),
        tmp_path,
        ["input_gradient"],
        image_range=(0, 1),
        outputs="exclusive",
        formats="litert",
        example=_images(3),
    )
    assert sorted(os.listdir(path)) == ["assets.extra", "model.tflite", "model_card.md"]
    inputs = {"image": _images(1), "target": np.int32([1])}
    got = litert_files.run(path, "input_gradient", inputs)
    assert got["saliency"].shape == (1, 12, 12)


@pytest.mark.long
def test_several_inputs_and_a_target(tmp_path):
    from tfgrad import targets

    keras.utils.set_random_seed(0)
    image, extra = keras.Input((8, 8, 1), name="picture"), keras.Input((4,), name="extra")
    x = L.Concatenate()([L.Flatten()(L.Conv2D(3, 3, activation="elu")(image)), extra])
    network = keras.Model({"picture": image, "extra": extra}, L.Dense(2)(x))
    target = targets.Scalar(lambda logits: logits[:, 0] - logits[:, 1], "difference")
    path = export.save(network, tmp_path, ["input_gradient"], targets=[target], formats="litert")
    given = {"picture": np.ones((1, 8, 8, 1), "float32"), "extra": np.ones((1, 4), "float32")}
    got = litert_files.run(path, "input_gradient_difference", given)
    live = saliency.InputGradient(network, target=target)(given)
    np.testing.assert_allclose(got["saliency_picture"], live["picture"], atol=1e-6)
    np.testing.assert_allclose(got["saliency_extra"], live["extra"], atol=1e-6)


@pytest.mark.slow
def test_a_text_transformer_with_a_dictionary_of_inputs(tmp_path):
    """Attention over tokens with a mask, as in KerasHub; its gradient sums over no axis."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((6,), dtype="int32", name="token_ids")
    mask = keras.Input((6,), dtype="int32", name="padding_mask")
    x = L.Embedding(9, 4)(tokens)
    seen = keras.ops.cast(mask, "bool")[:, None, :]
    x = L.MultiHeadAttention(2, 2)(x, x, attention_mask=seen) + x
    network = keras.Model({"token_ids": tokens, "padding_mask": mask}, L.Dense(3)(x[:, 0]))
    options = {"outputs": "exclusive", "formats": "openvino"}
    path = export.save(network, tmp_path, ["input_gradient"], **options)
    given = {
        "token_ids": np.int32([[3, 1, 4, 1, 5, 0]]),
        "padding_mask": np.int32([[1, 1, 1, 1, 1, 0]]),
    }
    live = saliency.InputGradient(network, outputs="exclusive").explain(given, [2])
    got = openvino_files.run(path, "input_gradient", given | {"target": np.int32([2])})
    (maps,) = (value for key, value in got.items() if key.startswith("saliency"))
    np.testing.assert_allclose(maps, live["saliency"]["token_ids"], rtol=1e-4, atol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize("cell", [L.LSTM, L.GRU])
def test_recurrent_layers_are_written_out(cell):
    """Loops that fill and read lists, and their gradients, as often as they run."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 3))
    network = keras.Model(inputs, L.Dense(2)(cell(4)(inputs)))
    method = saliency.InputGradient(network, outputs="exclusive")
    spec = tf.TensorSpec([2, 5, 3], tf.float32, "x")
    traced = tf.function(
        lambda x: {"gradient": method.explain(x, tf.constant([0, 1]))["gradient"]}, autograph=False
    ).get_concrete_function(x=spec)
    new = rewritten(traced, {"x": spec})
    kinds = {operation.type for operation in new.graph.get_operations()}
    assert not any("While" in kind or "TensorList" in kind for kind in kinds)
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32"))
    np.testing.assert_allclose(new(x=x)["gradient"], traced(x=x)["gradient"], atol=1e-7)


@pytest.mark.long
def test_tokens(tmp_path):
    keras.utils.set_random_seed(0)
    tokens = keras.Input((5,), dtype="int32")
    x = L.GlobalAveragePooling1D()(L.Embedding(9, 4, mask_zero=True)(tokens))
    network = keras.Model(tokens, L.Dense(3)(x))
    example = np.int32([[3, 1, 2, 0, 0]])
    options = {"outputs": "exclusive", "formats": ["openvino", "litert"], "example": example}
    path = export.save(network, tmp_path, ["input_gradient"], **options)
    inputs = {"token_ids": example, "target": np.int32([1])}
    live = saliency.InputGradient(network, outputs="exclusive").explain(example, [1])
    for module in (openvino_files, litert_files):
        got = module.run(path, "input_gradient", inputs)
        assert set(got) == set(live.keys())
        np.testing.assert_allclose(got["saliency"], live["saliency"], atol=1e-6)


def _refused(error, message, *arguments, model=None, **options):
    with pytest.raises(error, match=message):
        export.save(model or _network(), *arguments, outputs="exclusive", **options)


def test_bad_formats_and_batch_sizes(tmp_path, monkeypatch):
    _refused(ArgumentError, "formats: got 'onx'.*did you mean 'onnx'", tmp_path, formats=["onx"])
    _refused(ArgumentError, r"formats: got \(\)", tmp_path, formats=())
    _refused(ArgumentError, "batch_size: got None.*free", tmp_path, formats="onnx", batch_size=None)
    _refused(ArgumentError, "batch_size: got 0", tmp_path, formats="onnx", batch_size=0)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name)
    )
    _refused(ArgumentError, r"pip install 'tfgrad\[onnx\]'", tmp_path, formats="onnx")
    assert not os.listdir(tmp_path)


def test_models_without_fixed_sizes_or_with_strings(tmp_path):
    inputs = keras.Input((None, None, 3))
    free = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(L.Conv2D(2, 3)(inputs))))
    options = {"methods": ["input_gradient"], "image_range": (0, 1), "formats": "litert"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _refused(ModelError, "fixed sizes", tmp_path, model=free, **options)
    words = keras.Input((), dtype="string", name="words")
    number = keras.Input((3,), name="number")
    looked_up = L.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(words)
    strings = keras.Model([words, number], L.Dense(2)(L.Concatenate()([looked_up, number])))
    _refused(
        ModelError,
        "of strings",
        tmp_path,
        ["input_gradient"],
        model=strings,
        formats="litert",
        warmup=False,
    )
    assert not [name for name in os.listdir(tmp_path) if name != "1"]


def test_a_model_that_does_not_run_here(tmp_path):
    inputs = keras.Input((4,))
    x = L.Lambda(lambda x: tf.debugging.check_numerics(tf.math.log(-1 - tf.nn.relu(x)), "logs"))
    network = keras.Model(inputs, L.Dense(2)(x(inputs)))
    options = {"methods": ["input_gradient"], "formats": "litert"}
    _refused(ModelError, "does not run here.*logs", tmp_path, model=network, **options)


@pytest.mark.long
def test_examples_of_another_shape(tmp_path):
    _refused(
        ArgumentError,
        r"example: got 'image' of shape \(1, 8, 8, 3\)",
        tmp_path,
        formats="litert",
        image_range=(0, 1),
        example=np.zeros((1, 8, 8, 3)),
    )


class _Scaled(L.Layer):
    """A layer with an operation that other runtimes lack."""

    def call(self, x):
        return x * tf.math.lgamma(2.0 + tf.nn.relu(x))


@pytest.mark.long
def test_what_a_runtime_lacks_is_named(tmp_path):
    inputs = keras.Input((6, 6, 1))
    network = keras.Model(inputs, L.Dense(2)(L.Flatten()(_Scaled()(inputs))))
    _refused(
        ModelError,
        "nothing can be had.*Lgamma",
        tmp_path,
        ["input_gradient"],
        model=network,
        image_range=(0, 1),
        formats="onnx",
    )
    assert not os.listdir(tmp_path)


@pytest.mark.long
def test_a_runtime_that_fails_is_named(tmp_path, monkeypatch):
    def failing(directory, name, inputs):
        raise RuntimeError("node 7 \n failed to prepare")

    monkeypatch.setattr(litert_files, "run", failing)
    message = r"nothing can be had.*its runtime fails \(RuntimeError: node 7 failed to prepare\)"
    options = {"image_range": (0, 1), "formats": "litert", "warmup": False}
    _refused(ModelError, message, tmp_path, ["input_gradient"], **options)
    assert not os.listdir(tmp_path)


@pytest.mark.long
def test_what_differs_is_not_written_and_said(tmp_path, monkeypatch):
    run = litert_files.run

    def off(directory, name, inputs):
        found = run(directory, name, inputs)
        return {k: v * 1.01 if k == "saliency" else v for k, v in found.items()}

    monkeypatch.setattr(litert_files, "run", off)
    with pytest.warns(PortabilityWarning, match="'saliency' differs from TensorFlow's by 1.0e-02"):
        path = export.save(
            _network(),
            tmp_path,
            ["input_gradient"],
            image_range=(0, 1),
            outputs="exclusive",
            formats="litert",
        )
    monkeypatch.undo()
    assert set(litert_files.run(path, "serving_default", {"image": _images(1)})) == {
        "logits",
        "probabilities",
    }
    with open(os.path.join(path, "model.tflite"), "rb") as file:
        assert b"input_gradient" not in file.read()


def test_errors_are_relative_to_what_an_output_is():
    live = {
        "saliency": np.float32([[1, 100]]),
        "score": np.float32([2]),
        "class": np.int32([1]),
        "completeness_error": np.float32([1e-7]),
    }
    error, _ = verification.largest_error(live, live)
    assert error == 0
    moved = {**live, "completeness_error": np.float32([3e-7])}
    assert verification.largest_error(live, moved)[0] < 1e-6
    moved = {**live, "saliency": np.float32([[1.5, 100]])}
    assert verification.largest_error(live, moved) == (pytest.approx(5e-3), "saliency")
    assert verification.largest_error(live, {**live, "class": np.int32([2])}) == (np.inf, "class")
    broken = {**live, "score": np.float32([np.nan])}
    assert verification.largest_error(live, broken) == (np.inf, "score")


def test_more_is_allowed_only_where_the_live_map_jumps():
    kink = np.float32([[1.0, 0.0]])

    def signature(**given):
        x = given["x"]
        slope = tf.cast(x > 1, tf.float32) + 2
        return {"saliency": slope * x, "score": tf.reduce_sum(x, 1)}

    spec = tf.TensorSpec([1, 2], tf.float32, "x")
    traced = tf.function(signature, autograph=False).get_concrete_function(x=spec)
    live = verification.outputs(traced, {"x": kink})
    got = {"saliency": live["saliency"] * 1.4, "score": live["score"] * np.float32(1 + 1e-6)}
    assert verification.tolerance(traced, {"x": kink}, live, got) > 0.4
    smooth = {"x": kink * 2}
    live = verification.outputs(traced, smooth)
    got = {"saliency": live["saliency"] * 1.4, "score": live["score"] * np.float32(1 + 1e-6)}
    assert verification.tolerance(traced, smooth, live, got) < 3e-4


def test_numbers_of_rounds_become_tables():
    def drawn(x):
        def step(i, total):
            seed = tf.stack([i, 7])
            return i + 1, total + x * tf.random.stateless_normal([4], seed)

        return {"y": tf.while_loop(lambda i, _: i < 5, step, (tf.constant(2), tf.zeros([4])))[1]}

    spec = {"x": tf.TensorSpec([4], tf.float32, "x")}
    traced = tf.function(drawn, autograph=False).get_concrete_function(**spec)
    new = rewritten(traced, spec)
    functions = new.graph.as_graph_def().library.function
    kinds = {node.op for function in functions for node in function.node_def}
    assert not any("Random" in kind for kind in kinds)
    x = tf.constant([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(new(x=x)["y"], traced(x=x)["y"], rtol=1e-6)


def test_nothing_of_the_network_is_registered_or_changed(exported):
    network, _, _ = exported
    before = [variable.numpy().copy() for variable in network.weights]
    writing.check(FORMATS, 1)
    for variable, value in zip(network.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
