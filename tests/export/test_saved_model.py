"""Exported models: names, numbers in another process, and nothing left behind on failure."""

import json
import logging
import os
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad import export
from tfgrad.errors import ArgumentError, ModelError, WriteError
from tfgrad.export import versions
from tfgrad.training import PenalizedModel

# Keras converts TensorFlow tensors with np.array, whose copy protocol NumPy 2 wants extended.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# What a client sees: TensorFlow, a directory, and numbers.
CLIENT = """
import sys, warnings
import numpy as np
import tensorflow as tf
path, data, answers = sys.argv[1:]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    loaded = tf.saved_model.load(path)
mine = [str(w.message) for w in caught if "keras" in str(w.message) or "custom" in str(w.message)]
assert not mine, mine
assert "tfgrad" not in sys.modules
given, out = np.load(data), {}
for size in (1, 3, 7):
    image, target = tf.constant(given["image"][:size]), tf.constant(given["target"][:size])
    for key, value in loaded.signatures["serving_default"](image=image).items():
        out[f"{size}/{key}"] = value.numpy()
    for key, value in loaded.signatures["input_gradient"](image=image, target=target).items():
        out[f"{size}/{key}"] = value.numpy()
np.savez(answers, **out)
"""


def build(activation=None, classes=3, channels=2, dtype=None):
    """A network whose inference differs from its training: batch norm and dropout."""
    return keras.Sequential(
        [
            keras.Input((6, 5, channels)),
            keras.layers.Conv2D(4, 3, activation="softplus", dtype=dtype),
            keras.layers.BatchNormalization(dtype=dtype),
            keras.layers.Dropout(0.5, dtype=dtype),
            keras.layers.Flatten(dtype=dtype),
            keras.layers.Dense(classes, activation=activation, dtype=dtype),
        ],
        name="small",
    )


def images(count=7, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 6, 5, channels)).astype("float32")


def live(network, x, target):
    """The definition, without the library: Eq. 5.7's s with a plain tape."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = tf.cast(network(x, training=False), tf.float32)
        chosen = tf.where(target < 0, tf.argmax(logits, -1, tf.int32), target)
        score = tf.gather(logits, chosen, batch_dims=1)
    gradient = tape.gradient(score, x)
    return {
        "logits": logits,
        "probabilities": tf.nn.softmax(logits),
        "gradient": gradient,
        "saliency": tf.reduce_sum(tf.abs(gradient), -1),
        "score": score,
        "class": chosen,
    }


def signatures(path):
    loaded = tf.saved_model.load(path)
    return loaded, loaded.signatures


@pytest.mark.slow
def test_another_process_with_only_tensorflow_gets_the_same_numbers(tmp_path):
    network = build()
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(images(), np.arange(7) % 3, epochs=2, verbose=0)  # statistics other than 0 and 1
    x, target = images(seed=1), np.array([-1, 0, 1, 2, -1, 0, -1], np.int32)
    path = export.save(network, tmp_path / "small")
    np.savez(tmp_path / "data.npz", image=x, target=target)
    command = [sys.executable, "-c", CLIENT, path, "data.npz", "answers.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "answers.npz") as answers:
        for size in (1, 3, 7):
            for key, value in live(network, x[:size], target[:size]).items():
                answer = answers[f"{size}/{key}"]
                assert answer.dtype == ("int32" if key == "class" else "float32")
                np.testing.assert_allclose(answer, value, rtol=1e-6, atol=1e-6, err_msg=key)


@pytest.mark.long
def test_names_and_shapes_are_the_contract(tmp_path):
    loaded, served = signatures(export.save(build(), tmp_path))
    inputs = {n: s.structured_input_signature[1] for n, s in served.items()}
    assert set(inputs) == {"serving_default", "fullgrad", "input_gradient"}
    assert set(inputs["serving_default"]) == {"image"}
    assert set(inputs["input_gradient"]) == {"image", "target"}
    assert inputs["input_gradient"]["image"].shape.as_list() == [None, 6, 5, 2]
    assert inputs["input_gradient"]["target"].dtype == tf.int32
    outputs = {k: v.shape.as_list() for k, v in served["input_gradient"].structured_outputs.items()}
    assert outputs == {
        "saliency": [None, 6, 5],
        "gradient": [None, 6, 5, 2],
        "score": [None],
        "class": [None],
    }
    del loaded


@pytest.mark.long
def test_only_the_variables_that_inference_reads_are_kept(tmp_path):
    network = build()
    network.compile("adam", "mse", metrics=["mae"])
    network.fit(images(), np.zeros((7, 3)), verbose=0)
    path = export.save(network, tmp_path)
    reader = tf.train.load_checkpoint(os.path.join(path, "variables", "variables"))
    shapes = reader.get_variable_to_shape_map()
    kept = sorted(tuple(s) for n, s in shapes.items() if n.startswith("variables_of_network"))
    assert kept == sorted(tuple(w.shape) for w in network.weights)  # no optimizer, no seeds
    assert len(shapes) == len(kept) + 1  # and the object graph


@pytest.mark.long
def test_metadata_lies_where_serving_does_not_look(tmp_path):
    path = export.save(build(), tmp_path / "digits", classes=["nought", "één", "2"])
    with open(os.path.join(path, "assets.extra", "tfgrad.json"), encoding="utf-8") as file:
        metadata = json.load(file)
    assert metadata["name"] == "digits"
    assert metadata["classes"] == ["nought", "één", "2"]
    assert metadata["input_shape"] == [None, 6, 5, 2]
    assert metadata["keras"] == keras.__version__
    assert metadata["signatures"] == ["fullgrad", "input_gradient", "serving_default"]


@pytest.mark.long
def test_a_penalized_model_exports_its_network(tmp_path):
    network = build()
    _, served = signatures(export.save(PenalizedModel(network), tmp_path))
    x = images()
    np.testing.assert_allclose(
        served["serving_default"](image=tf.constant(x))["logits"], network(x), atol=1e-6
    )


@pytest.mark.long
@pytest.mark.sample(4, start=1)
@pytest.mark.filterwarnings("ignore:FullGrad of model:tfgrad.errors.PlacementWarning")
@pytest.mark.parametrize("kind", ["functional", "subclassed", "flat", "mixed"])
def test_other_kinds_of_networks(tmp_path, kind):
    x = images(4)
    if kind == "functional":
        inputs = keras.Input((None, None, 2))
        pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3)(inputs) ** 2)
        network = keras.Model(inputs, keras.layers.Dense(3)(pooled))
    elif kind == "subclassed":

        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                self.body = build()

            def call(self, x, training=False):
                return self.body(x, training=training)

        network = Own()
        network(x)
    elif kind == "flat":
        x = x.reshape(4, -1)
        network = keras.Sequential([keras.Input((60,)), keras.layers.Dense(3)])
    else:
        network = build(dtype="mixed_bfloat16")
    _, served = signatures(export.save(network, tmp_path))
    target = np.array([-1, 0, 1, 2], np.int32)
    expected = live(network, x, target)
    if kind == "flat":  # no channels: one value per feature
        expected["saliency"] = tf.abs(expected["gradient"])
    out = served["input_gradient"](image=tf.constant(x), target=tf.constant(target))
    for key, value in out.items():
        assert value.dtype == (tf.int32 if key == "class" else tf.float32)
        tolerance = 2e-2 if kind == "mixed" else 1e-5  # bfloat16 holds 8 bits
        np.testing.assert_allclose(value, expected[key], rtol=tolerance, atol=tolerance)


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize("target", [[3, 0], [0, -2]])
def test_an_absent_class_fails_the_request(tmp_path, target):
    _, served = signatures(export.save(build(), tmp_path))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"target: got(.|\n)*expected classes 0 to 2, or -1"
    ):
        served["input_gradient"](image=tf.constant(images(2)), target=tf.constant(target))


@pytest.mark.long
def test_too_few_targets_fail_the_request(tmp_path):
    _, served = signatures(export.save(build(), tmp_path))
    with pytest.raises(tf.errors.InvalidArgumentError, match="one class for each image"):
        served["input_gradient"](image=tf.constant(images(3)), target=tf.constant([0]))


def test_the_temporary_directory_is_not_logged(tmp_path, monkeypatch):
    said, logger = [], tf.get_logger()
    monkeypatch.setattr(logger, "handle", lambda record: said.append(record.getMessage()))
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        logger.info("before")
        export.save(build(), tmp_path, methods=())
    finally:
        logger.setLevel(level)
    assert said == ["before"]


def test_versions_count_up_from_the_highest(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").mkdir()
    network = build()
    assert export.save(network, tmp_path, methods=()) == str(tmp_path / "8")
    assert export.save(network, tmp_path, methods=()) == str(tmp_path / "9")
    assert sorted(os.listdir(tmp_path)) == ["7", "8", "9", "notes"]


def test_two_writers_get_two_versions(tmp_path):
    barrier, paths = threading.Barrier(2), []

    def write(path):
        with open(os.path.join(path, "file"), "w"):
            barrier.wait(10)  # both have chosen their number by now

    def sign(path, final):
        with open(os.path.join(path, "card"), "w") as file:
            file.write(final)

    def run():
        paths.append(versions.publish(str(tmp_path), write, sign=sign))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(paths) == [str(tmp_path / "1"), str(tmp_path / "2")]
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]
    for path in paths:  # also in that of the second one, which took another number
        with open(os.path.join(path, "card")) as file:
            assert file.read() == path


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(28, "No space left"), WriteError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        # An error of TensorFlow that names no file is not one of the disk.
        (tf.errors.InternalError(None, None, "of a graph"), tf.errors.InternalError),
    ],
)
def test_a_failure_leaves_nothing(tmp_path, monkeypatch, failure, raised):
    def fail(module, path, **kwargs):
        with open(os.path.join(path, "saved_model.pb"), "w") as file:
            file.write("half")
        raise failure

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(raised):
        export.save(build(), tmp_path / "new" / "model")
    assert not os.listdir(tmp_path)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        ArgumentError,
        match=r"directory: got .*file.model', which cannot be written .*; expected a writable one",
    ) as caught:
        export.save(build(), tmp_path / "file" / "model")
    assert "Choose a directory" in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


def wrong_models():
    nan = build()
    nan.layers[0].bias.assign([0, np.nan, 0, 0])
    a = keras.Input((2,))
    two_outputs = keras.Model(a, [keras.layers.Dense(2)(a), keras.layers.Dense(2)(a)])
    integers = keras.Input((2,), dtype="int32")
    return {
        "nan": (nan, r"NaN or infinite values in the weight .*bias; expected finite weights"),
        "softmax": (
            keras.Model(a, keras.layers.Dense(1, activation="softmax")(a)),
            r"layer 'dense.*': got a softmax of one unit, which is 1 for every input",
        ),
        "two outputs": (two_outputs, r"no logits \[batch, classes\]; expected a target"),
        "map": (keras.Sequential([keras.Input((6, 5, 2)), keras.layers.Conv2D(3, 3)]), "a target"),
        "unbuilt": (keras.Sequential([keras.layers.Dense(2)]), "not built"),
        "integers": (keras.Model(integers, keras.layers.Embedding(4, 2)(integers)), "a target"),
    }


@pytest.mark.parametrize("case", wrong_models())
def test_models_that_are_refused(tmp_path, case):
    model, message = wrong_models()[case]
    with pytest.raises(ModelError, match=message):
        export.save(model, tmp_path / "model")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["magic"]}, r"methods: got 'magic'; expected one of .*'input_gradient'"),
        (
            {"methods": "input_gradient"},
            r"methods: got the string .*; expected a list of .*'input_gradient'",
        ),
        ({"classes": ["a", "b"]}, r"classes: got 2 names; expected 3, one per logit"),
        ({"classes": "abc"}, r"classes: got 'abc'; expected a list of 3 names"),
    ],
)
def test_arguments_that_are_refused(tmp_path, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        export.save(build(), tmp_path / "model", **arguments)
    assert not os.listdir(tmp_path)


class Hidden(keras.layers.Layer):
    """Holds something of TensorFlow where Keras does not look for it."""

    def __init__(self, held):
        super().__init__()
        self.held = [held]

    def call(self, x):
        held = self.held[0]
        return x * (held if isinstance(held, tf.Variable) else held.lookup(tf.constant(0)))


def test_a_variable_that_keras_does_not_track_is_exported(tmp_path):
    scale = tf.Variable(2.0)
    network = keras.Sequential([keras.Input((4,)), Hidden(scale), keras.layers.Dense(2)])
    scale.assign(3.0)
    path = export.save(network, tmp_path / "model", methods=["input_gradient"], warmup=False)
    x = tf.ones((1, 4))
    served = tf.saved_model.load(path).signatures["serving_default"](image=x)["logits"]
    np.testing.assert_allclose(served, network(x), rtol=1e-6)


def test_state_that_keras_does_not_track(tmp_path):
    entries = tf.lookup.KeyValueTensorInitializer([0], [2.0], tf.int32, tf.float32)
    table = tf.lookup.StaticHashTable(entries, 1.0)
    network = keras.Sequential([keras.Input((4,)), Hidden(table), keras.layers.Dense(2)])
    with pytest.raises(ModelError, match="state that Keras does not track"):
        export.save(network, tmp_path / "model")
    assert not os.listdir(tmp_path)


def test_something_that_is_no_model(tmp_path):
    with pytest.raises(ArgumentError, match=r"model: got a str"):
        export.save("model.keras", tmp_path)
