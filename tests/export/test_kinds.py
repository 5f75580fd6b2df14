"""What can be exported: inputs, warm-up, preprocessing and methods, and what is refused."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.serving_cases import (
    PYTHON,
    build,
    close,
    encoded,
    floats,
    requests_of,
    signatures,
    targets,
)
from tests.helpers.variants import with_slow
from tfgrad import export, images, saliency
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.export import warmup_requests
from tfgrad.training import PenalizedModel

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


# Inputs


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:FullGrad of model:tfgrad.errors.PlacementWarning")
@pytest.mark.parametrize(
    ("shape", "reason"),
    with_slow(
        [((8, 9, 2), "1 or 3 channels"), ((7,), "takes")],
        [((None, None, 3), "fixed height and width")],
    ),
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


@pytest.mark.long
def test_gray_images_and_no_method(tmp_path):
    network = build((8, 9, 1))
    loaded, served = signatures(export.save(network, tmp_path, methods=(), image_range=(0, 1)))
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


@pytest.mark.long
def test_a_model_that_takes_a_dict_of_one_image(tmp_path):
    network = build()
    image = keras.Input((8, 9, 3), name="image")
    model = keras.Model({"image": image}, network(image))
    method = saliency.InputGradient(model, reduce="max_abs")
    _, served = signatures(
        export.save(model, tmp_path, methods=[method, "fullgrad"], image_range=(0, 1))
    )
    x, target = tf.constant(floats(5)), tf.constant(targets(5))
    for live in (method, saliency.FullGrad(model)):
        got = served[live.name](image=x, target=target)["saliency"]
        close(got.numpy(), live.explain(x, target)["saliency"])
    logits = served["serving_default"](image=x)["logits"]
    np.testing.assert_allclose(logits, network(x), atol=1e-6)


def test_a_network_that_calls_python_is_refused(tmp_path):
    class Bridge(keras.layers.Layer):
        def call(self, x):
            return tf.ensure_shape(tf.py_function(tf.identity, [x], tf.float32), x.shape)

    network = keras.Sequential([keras.Input((7,)), Bridge(), keras.layers.Dense(2)])
    with pytest.raises(ModelError, match=r"calls Python \(EagerPyFunc"):
        export.save(network, tmp_path / "model", methods=())
    assert not os.listdir(tmp_path)


# Warm-up


def test_the_wire_format_of_a_warm_up_request(tmp_path):
    """Field by field, as the .proto files of TensorFlow Serving number them."""
    (tmp_path / "assets.extra").mkdir()
    warmup_requests.write(str(tmp_path), "m", {"s": {"t": tf.constant([-1])}})
    record_file = str(tmp_path / warmup_requests.WARMUP_REQUESTS)
    (record,) = tf.data.TFRecordDataset(record_file).as_numpy_iterator()

    def field(number, content):
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    spec = field(1, b"m") + field(3, b"s")  # ModelSpec: name, signature_name
    tensor = tf.make_tensor_proto(tf.constant([-1])).SerializeToString()
    pair = field(1, b"t") + field(2, tensor)
    request = field(1, spec) + field(2, pair)  # PredictRequest: model_spec, inputs
    assert record == field(6, field(1, request))  # PredictionLog.predict_log, PredictLog.request


@pytest.mark.long
def test_warm_up_can_be_left_out(tmp_path):
    path = export.save(build(), tmp_path, warmup=False, image_range=(0, 1))
    assert os.listdir(os.path.join(path, "assets.extra")) == ["tfgrad.json"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:FullGrad of model:tfgrad.errors.PlacementWarning")
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


# Preprocessing


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


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "case",
    with_slow(
        ["function", "layer with weights"],
        [case for case in preprocessings() if case not in ("function", "layer with weights")],
    ),
)
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


@pytest.mark.parametrize("pair", [(1, 0), (0, 0), (0, np.nan), (0,), (), 255, 0, ("a", "b")])
def test_ranges_that_are_refused(tmp_path, pair):
    with pytest.raises(ArgumentError, match=r"image_range: got .*expected the values of black"):
        export.save(build(), tmp_path / "model", image_range=pair)
    assert not os.listdir(tmp_path)


# Methods


@pytest.mark.long
def test_methods_with_options(tmp_path):
    network = build()
    method = saliency.IntegratedGradients(PenalizedModel(network), baseline=0.5, steps=3)
    chosen = [method, "input_gradient"]
    path = export.save(PenalizedModel(network), tmp_path, chosen, image_range=(0, 1))
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


@pytest.mark.long
def test_a_smoothed_method_has_a_name_and_preprocessing_a_range(tmp_path):
    network = build()
    smooth = saliency.Smooth(saliency.InputGradient(network), samples=2)
    _, served = signatures(export.save(network, tmp_path, methods=[smooth], image_range=(0, 1)))
    assert "smooth_input_gradient" in served
    with pytest.raises(ArgumentError, match=r"image_range: got None with preprocess=.*\(0, 255\)"):
        export.save(network, tmp_path, methods=[], preprocess=tf.identity)


def test_methods_that_are_refused(tmp_path):
    network, other = build(), build()
    mine = saliency.InputGradient(network)
    for methods, message in [
        (
            [saliency.InputGradient(other)],
            "built on another model; expected methods of the exported 'small'",
        ),
        ([mine, "input_gradient"], "got 'input_gradient' twice"),
        ([saliency.InputGradient], r"methods: got <class .*expected one of .*'input_gradient'"),
        (mine, r"methods: got the method InputGradient.*; expected a list"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            export.save(network, tmp_path / "model", methods)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", PYTHON)
def test_methods_in_python_cannot_be_exported(tmp_path, name):
    with pytest.raises(ModelError):
        export.save(build(), tmp_path / "model", [name])
    assert not os.listdir(tmp_path)
