"""What a client of an exported model gets: every method, encoded images, warm-up, the command."""

import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad import _warmup, export, images, loading, saliency
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.training import PenalizedModel

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# They compute in Python, and no graph can hold that.
PYTHON = [
    name for name in ("gradcam_plus_plus", "layercam", "scorecam") if name in saliency.METHODS
]
METHODS = [name for name in saliency.METHODS if name not in PYTHON]
SIZES = (1, 7, 64)
EXTRAS = {
    "input_gradient": {"gradient"},
    "integrated_gradients": {"convergence_gap"},
    "guided_backprop": {"gradient"},
    "fullgrad": {"completeness_error"},
}

CLIENT = """
import sys
import numpy as np
import tensorflow as tf
path, questions, answers = sys.argv[1:]
loaded = tf.saved_model.load(path)
assert not {"tfgrad", "keras"} & {m.partition(".")[0] for m in sys.modules} - KERAS
given, out = np.load(questions), {}
for name, signature in loaded.signatures.items():
    for size in (1, 7, 64):
        asked = {"image": tf.constant(given["image"][:size])}
        if name == "encoded":
            asked = {"image_bytes": tf.constant(given["image_bytes"][:size].tolist())}
        if name != "serving_default":
            asked["target"] = tf.constant(given["target"][:size])
        for key, value in signature(**asked).items():
            out[f"{name}/{size}/{key}"] = value.numpy()
np.savez(answers, **out)
""".replace("KERAS", repr({"keras"}))  # TensorFlow may import Keras for itself


def build(shape=(8, 9, 3), classes=4):
    """ReLUs, a batch norm with statistics of its own, and a map of more than one position."""
    network = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(5, 3, activation="relu", bias_initializer="normal"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(4, 3),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, bias_initializer="normal"),
        ],
        name="small",
    )
    network(np.random.default_rng(3).normal(1, 2, (9, *shape)).astype("float32"), training=True)
    return network


def floats(count=64, shape=(8, 9, 3), seed=0):
    return np.random.default_rng(seed).uniform(size=(count, *shape)).astype("float32")


def encoded(count=64, channels=3, seed=0):
    """PNG and JPEG files in turn, of many sizes."""
    rng = np.random.default_rng(seed)
    files = []
    for i in range(count):
        shape = (*rng.integers(1, 40, 2), channels)
        picture = rng.integers(0, 256, shape).astype("uint8")
        encode = tf.io.encode_jpeg if i % 2 else tf.io.encode_png
        files.append(encode(picture).numpy())
    return files


def targets(count=64, classes=4):
    return np.arange(-1, count - 1, dtype="int32") % (classes + 1) - 1


def signatures(path):
    loaded = loading.load_served(path)  # it refuses graphs that reach outside themselves
    return loaded, loaded.signatures


def close(got, expected, scale=None):
    """Equal to 1e-6 of the largest value."""
    expected = np.asarray(expected)
    assert got.dtype == expected.dtype and got.shape == expected.shape
    scale = np.abs(expected).max() if scale is None else scale
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * max(float(scale), 1e-12))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network, its directory with every method, and what another process gets from it."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("exported")
    network = build()
    path = export.save(network, folder / "small", METHODS)
    questions, answers = folder / "questions.npz", folder / "answers.npz"
    files = np.array(encoded(), dtype=object).astype("S")  # zero bytes at an end would be lost
    assert files.tolist() == encoded()
    np.savez(questions, image=floats(), target=targets(), image_bytes=files)
    command = [sys.executable, "-c", CLIENT, path, str(questions), str(answers)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(answers) as file:
        return network, path, dict(file)


@pytest.mark.parametrize("name", METHODS)
def test_a_fresh_process_gets_the_live_methods_numbers(exported, name):
    network, _, answers = exported
    method = saliency.get(name)(network)
    for size in SIZES:
        live = method.explain(tf.constant(floats(size)), tf.constant(targets(size)))
        assert {"saliency", "score", "class"} | EXTRAS.get(name, set()) == set(live)
        for key, expected in live.items():
            # A remainder of terms that cancel is as exact as the terms are.
            scale = np.abs(live["score"]).max() if expected.shape.rank == 1 else None
            close(answers[f"{name}/{size}/{key}"], expected, scale)
            assert expected.shape[0] == size


def test_encoded_images_give_what_decoding_by_hand_gives(exported):
    _, path, answers = exported
    _, served = signatures(path)
    by_hand = np.stack([images.decode(content, (8, 9)).numpy() for content in encoded()])
    for size in SIZES:
        image, target = tf.constant(by_hand[:size]), tf.constant(targets(size))
        expected = served[METHODS[0]](image=image, target=target)
        expected |= served["serving_default"](image=image)
        for key in ("logits", "probabilities", "class", "score", "saliency"):
            got = answers[f"encoded/{size}/{key}"]
            np.testing.assert_allclose(got, expected[key], rtol=1e-5, atol=1e-5)
    keys = {key.split("/")[2] for key in answers if key.startswith("encoded/")}
    assert keys == {"logits", "probabilities", "class", "score", "saliency"}


def test_every_signature_has_named_inputs_and_outputs_with_the_batch_first(exported):
    _, served = signatures(exported[1])
    assert set(served) == {"serving_default", "encoded", *METHODS}
    for name, signature in served.items():
        inputs = signature.structured_input_signature[1]
        expected = {
            "serving_default": {"image": (tf.float32, [None, 8, 9, 3])},
            "encoded": {"image_bytes": (tf.string, [None]), "target": (tf.int32, [None])},
        }.get(name, {"image": (tf.float32, [None, 8, 9, 3]), "target": (tf.int32, [None])})
        assert {k: (s.dtype, s.shape.as_list()) for k, s in inputs.items()} == expected
        outputs = signature.structured_outputs
        assert all(spec.shape.rank and spec.shape[0] is None for spec in outputs.values())
        if name != "serving_default":
            assert outputs["saliency"].shape.as_list() == [None, 8, 9]
            assert outputs["class"].dtype == tf.int32
            assert {"saliency", "score", "class"} | EXTRAS.get(name, set()) <= set(outputs)


def test_metadata_tells_the_methods_options(exported):
    with open(os.path.join(exported[1], export.METADATA), encoding="utf-8") as file:
        metadata = json.load(file)
    assert list(metadata["methods"]) == METHODS
    assert metadata["methods"]["integrated_gradients"] == {"baseline": 0.0, "steps": 50}
    assert metadata["image_range"] == [0, 1]
    assert metadata["preprocess"] is None
    assert metadata["left_out"] == {}


def requests_of(path):
    """(model, signature, inputs) of each warm-up request, parsed from the file."""
    parsed = []
    for record in tf.data.TFRecordDataset(os.path.join(path, _warmup.PATH)):
        log = _warmup.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        inputs = {
            key: tf.make_ndarray(tf.make_tensor_proto(0).FromString(value))
            for key, value in request.inputs.items()
        }
        parsed.append((request.model_spec.name, request.model_spec.signature_name, inputs))
    return parsed


def test_warm_up_requests_replay(exported):
    _, served = signatures(exported[1])
    parsed = requests_of(exported[1])
    assert [name for _, name, _ in parsed] == ["serving_default", *METHODS, "encoded"]
    for model, name, inputs in parsed:
        assert model == "small"
        outputs = served[name](**{key: tf.constant(value) for key, value in inputs.items()})
        assert all(value.shape[0] == 1 for value in outputs.values())
        if "target" in inputs:
            assert inputs["target"].tolist() == [-1]


def test_the_wire_format_of_a_warm_up_request(tmp_path):
    """Field by field, as the .proto files of TensorFlow Serving number them."""
    (tmp_path / "assets.extra").mkdir()
    _warmup.write(str(tmp_path), "m", {"s": {"t": tf.constant([-1])}})
    (record,) = tf.data.TFRecordDataset(str(tmp_path / _warmup.PATH)).as_numpy_iterator()

    def field(number, content):
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    spec = field(1, b"m") + field(3, b"s")  # ModelSpec: name, signature_name
    tensor = tf.make_tensor_proto(tf.constant([-1])).SerializeToString()
    pair = field(1, b"t") + field(2, tensor)
    request = field(1, spec) + field(2, pair)  # PredictRequest: model_spec, inputs
    assert record == field(6, field(1, request))  # PredictionLog.predict_log, PredictLog.request


def test_warm_up_can_be_left_out(tmp_path):
    path = export.save(build(), tmp_path, warmup=False)
    assert os.listdir(os.path.join(path, "assets.extra")) == ["tfgrad.json"]


@pytest.mark.parametrize("name", ["input_gradient", "encoded"])
@pytest.mark.parametrize("target", [[4, 0], [0, -2], [0]])
def test_bad_targets_fail_the_request(exported, name, target):
    _, served = signatures(exported[1])
    asked = {"image": tf.constant(floats(2))}
    if name == "encoded":
        asked = {"image_bytes": tf.constant(encoded(2))}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"target: expected .*-1 for the pred"):
        served[name](**asked, target=tf.constant(target))


def test_bad_images_fail_the_request_before_they_are_decoded(exported):
    _, served = signatures(exported[1])
    good = encoded(1)[0]
    huge = good[:16] + (100_000).to_bytes(4, "big") * 2  # cut off right there
    for bad, message in {
        huge: r"image_bytes\[1\]: got 100000 × 100000 pixels, expected 1 to",
        b"\xff\xd8\xff" + b"\0" * images.MAX_BYTES: r"\[1\]: got 16777219 bytes, expected 1 to",
        b"GIF89a": "got a GIF, expected a JPEG or a PNG",
        b"": "got 0 bytes",
        good[:-4]: "Invalid PNG data",
    }.items():
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            served["encoded"](image_bytes=tf.constant([good, bad]), target=tf.constant([-1, -1]))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((None, None, 3), "fixed height and width"), ((8, 9, 2), "1 or 3 channels"), ((7,), "takes")],
)
def test_other_inputs_have_no_encoded_signature(tmp_path, shape, reason):
    inputs = keras.Input(shape)
    features = keras.layers.Conv2D(5, 3)(inputs) ** 2 if len(shape) == 3 else inputs
    if len(shape) == 3:
        features = keras.layers.GlobalAveragePooling2D()(features)
    network = keras.Model(inputs, keras.layers.Dense(4)(features))
    path = export.save(network, tmp_path)
    loaded, served = signatures(path)
    methods = ["fullgrad", "input_gradient"] if len(shape) == 3 else ["input_gradient"]
    assert set(served) == {"serving_default", *methods}
    assert reason in loaded.metadata["left_out"]["encoded"]
    assert [name for _, name, _ in requests_of(path)] == ["serving_default", *methods]
    sides = [n or 11 for n in shape]
    image = tf.constant(floats(3, sides))
    out = served["input_gradient"](image=image, target=tf.constant([-1, 0, 1]))
    assert out["saliency"].shape == [3, *sides[:2]]


def test_warm_up_finds_a_size_that_a_model_takes(tmp_path):
    inputs = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(2, 50)(inputs)  # too much for 32 × 32
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(features))
    path = export.save(keras.Model(inputs, outputs), tmp_path)
    assert {i["image"].shape for _, _, i in requests_of(path)} == {(1, 64, 64, 3)}


def test_a_model_that_fails_on_zeros_is_not_given_to_a_server(tmp_path):
    class Picky(keras.layers.Layer):
        def call(self, x):
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_any(x > 0), ["dark"])]):
                return tf.identity(x)

    network = keras.Sequential([keras.Input((7,)), Picky(), keras.layers.Dense(2)])
    with pytest.raises(ModelError, match=r"fails on an image of zeros \((.|\n)*dark"):
        export.save(network, tmp_path / "model")
    assert not os.listdir(tmp_path)
    assert export.save(network, tmp_path / "model", warmup=False)


def test_gray_images_and_no_method(tmp_path):
    network = build((8, 9, 1))
    loaded, served = signatures(export.save(network, tmp_path, methods=()))
    assert set(served) == {"serving_default", "encoded"}
    out = served["encoded"](
        image_bytes=tf.constant(encoded(5)), target=tf.constant([-1, 0, 1, 2, -1])
    )
    assert set(out) == {"logits", "probabilities", "class", "score"}
    x = np.stack([images.decode(content, (8, 9), 1) for content in encoded(5)])
    logits = network(x).numpy()
    chosen = np.where([1, 0, 0, 0, 1], logits.argmax(-1), [0, 0, 1, 2, 0])
    np.testing.assert_array_equal(out["class"], chosen)
    np.testing.assert_allclose(out["score"], logits[np.arange(5), chosen], atol=1e-5)
    assert loaded.metadata["methods"] == {}


def scaled(image):
    return image / 127.5 - 1.0


def preprocessings():
    offset = tf.Variable(0.5)
    adapted = keras.layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.1, 0.2, 0.3])
    return {
        "function": (scaled, (0, 255), lambda x: x / 127.5 - 1),
        "keras.applications": (
            keras.applications.resnet.preprocess_input,
            (0, 255),
            lambda x: x[..., ::-1] - np.float32([103.939, 116.779, 123.68]),
        ),
        "layer": (keras.layers.Rescaling(2.0, -1.0), (0, 1), lambda x: 2 * x - 1),
        "layer with weights": (adapted, (0, 1), lambda x: adapted(x).numpy()),
        "random layer": (keras.layers.GaussianNoise(1.0), (-1, 1), lambda x: x),
        "variable": (lambda image: image - offset, (0, 1), lambda x: x - 0.5),
    }


@pytest.mark.parametrize("case", preprocessings())
def test_preprocessing_is_inside_the_graph(tmp_path, case):
    preprocess, (low, high), by_hand = preprocessings()[case]
    network = build()
    path = export.save(network, tmp_path, preprocess=preprocess, image_range=(low, high))
    loaded, served = signatures(path)
    pixels = low + (high - low) * floats(7)
    x, target = tf.constant(by_hand(pixels)), tf.constant(targets(7))
    live = saliency.InputGradient(network).explain(x, target)
    out = served["input_gradient"](image=tf.constant(pixels), target=target)
    for key, expected in live.items():
        np.testing.assert_allclose(out[key], expected, rtol=1e-4, atol=1e-4)
    logits = served["serving_default"](image=tf.constant(pixels))["logits"]
    np.testing.assert_allclose(logits, network(x), rtol=1e-4, atol=1e-4)

    decoded = images.decode_batch(encoded(7), (8, 9)).numpy()
    x = by_hand(low + (high - low) * decoded)
    out = served["encoded"](image_bytes=tf.constant(encoded(7)), target=target)
    np.testing.assert_allclose(out["logits"], network(x), rtol=1e-4, atol=1e-4)
    assert loaded.metadata["image_range"] == [low, high]
    assert loaded.metadata["preprocess"]


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        (lambda x: np.asarray(x) / 255, "cannot be traced .*Write it in TensorFlow operations"),
        (lambda x: tf.image.resize(x, (4, 4)), r"turns images .* into \(None, 4, 4, 3\)"),
        (lambda x: tf.cast(x, tf.int32), "expected one float tensor"),
        (lambda x: (x, x), "expected one float tensor"),
        (lambda x: tf.numpy_function(np.negative, [x], tf.float32), r"calls Python \(PyFunc"),
        (255.0, "got a float; expected a Keras layer or a function"),
    ],
)
def test_preprocessing_that_is_refused(tmp_path, preprocess, message):
    with pytest.raises(ArgumentError, match=rf"^preprocess: (.|\n)*{message}"):
        export.save(build(), tmp_path / "model", preprocess=preprocess)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("pair", [(1, 0), (0, 0), (0, np.nan), (0,), 255, ("a", "b")])
def test_ranges_that_are_refused(tmp_path, pair):
    with pytest.raises(ArgumentError, match=r"image_range: got .*expected the values of black"):
        export.save(build(), tmp_path / "model", image_range=pair)
    assert not os.listdir(tmp_path)


def test_methods_with_options(tmp_path):
    network = build()
    method = saliency.IntegratedGradients(PenalizedModel(network), baseline=0.5, steps=3)
    path = export.save(PenalizedModel(network), tmp_path, [method, "input_gradient"])
    loaded, served = signatures(path)
    assert loaded.metadata["methods"]["integrated_gradients"] == {"baseline": 0.5, "steps": 3}
    x, target = tf.constant(floats(5)), tf.constant(targets(5))
    live = method.explain(x, target)
    out = served["integrated_gradients"](image=x, target=target)
    close(out["saliency"].numpy(), live["saliency"])
    explained = served["encoded"](image_bytes=tf.constant(encoded(5)), target=target)
    by_hand = images.decode_batch(encoded(5), (8, 9))
    expected = served["integrated_gradients"](image=by_hand, target=target)["saliency"]
    np.testing.assert_allclose(explained["saliency"], expected, atol=1e-5)


def test_a_smoothed_method_has_a_name_and_preprocessing_a_range(tmp_path):
    network = build()
    smooth = saliency.Smooth(saliency.InputGradient(network), samples=2)
    _, served = signatures(export.save(network, tmp_path, methods=[smooth]))
    assert "smooth_input_gradient" in served
    with pytest.raises(ArgumentError, match=r"image_range: not given with preprocess=.*\(0, 255\)"):
        export.save(network, tmp_path, methods=[], preprocess=lambda x: x / 127.5 - 1.0)


def test_methods_that_are_refused(tmp_path):
    network, other = build(), build()
    mine = saliency.InputGradient(network)
    for methods, message in [
        ([saliency.InputGradient(other)], "built on another model"),
        ([mine, "input_gradient"], "got 'input_gradient' twice"),
        ([saliency.InputGradient], r"methods: got <class .*known methods: .*'input_gradient'"),
        (mine, r"methods: got the method InputGradient.*expected a list"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            export.save(network, tmp_path / "model", methods)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", PYTHON)
def test_methods_in_python_cannot_be_exported(tmp_path, name):
    with pytest.raises(ModelError):
        export.save(build(), tmp_path / "model", [name])
    assert not os.listdir(tmp_path)


def test_a_network_that_calls_python_is_refused(tmp_path):
    class Bridge(keras.layers.Layer):
        def call(self, x):
            return tf.ensure_shape(tf.py_function(tf.identity, [x], tf.float32), x.shape)

    network = keras.Sequential([keras.Input((7,)), Bridge(), keras.layers.Dense(2)])
    with pytest.raises(ModelError, match=r"calls Python \(EagerPyFunc"):
        export.save(network, tmp_path / "model", methods=())
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_saved_model_cli_shows_and_runs_it(exported, tmp_path):
    command = shutil.which("saved_model_cli", path=os.path.dirname(sys.executable))
    assert command is not None, "TensorFlow installs saved_model_cli beside its Python"
    _, path, answers = exported
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}

    def run(*arguments):
        done = subprocess.run(
            [command, *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = run("show", "--dir", path, "--all")
    for name in ("serving_default", "encoded", *METHODS):
        assert f"signature_def['{name}']" in shown
    assert "inputs['image_bytes'] tensor_info" in shown
    np.savez(tmp_path / "in.npz", image=floats(7), target=targets(7))
    data = tmp_path / "in.npz"
    run(
        *("run", "--dir", path, "--tag_set", "serve", "--signature_def", "input_gradient"),
        *("--inputs", f"image={data}[image];target={data}[target]", "--outdir", str(tmp_path)),
    )
    close(np.load(tmp_path / "saliency.npy"), answers["input_gradient/7/saliency"])
