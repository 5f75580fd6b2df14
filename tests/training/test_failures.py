"""Failures of a training say what is certain, and errors of a network stay what they are."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from tensorflow.python.eager import backprop, execute

from tests.helpers.faults import no_file_above
from tfgrad import PenalizedModel, callbacks, evaluation, saliency
from tfgrad.errors import ModelError, WorkerError, WriteError
from tfgrad.penalties import GradientNorm
from tfgrad.training.failures import with_clear_errors

X, Y = np.ones((4, 6), "float32"), np.array([0, 1, 2, 0])
STATE = "the state of epoch 7 is kept in DIRECTORY"
# As TensorFlow 2.21 words them, for a worker and for the chief that was killed.
UNHEALTHY = (
    "{{function_node __wrapped__CollectiveReduceV2_device_/job:worker/replica:0/task:0/device:CPU:"
    "0}} Collective ops is aborted by: Error reported from /job:worker/task:1: The following tasks "
    "are unhealthy (stopped sending heartbeats):\n/job:worker/replica:0/task:2\nThe tasks have "
    "crashed."
)
RESET = (
    "{{function_node __wrapped__CollectiveReduceV2_device_/job:worker/replica:0/task:0/device:CPU:"
    "0}} Collective ops is aborted by: recvmsg:Connection reset by peer\nAdditional GRPC error "
    "information from remote target /job:worker/replica:0/task:2 while calling "
    "/tensorflow.WorkerService/CompleteInstance:\n"
)


def model(*layers):
    network = keras.Sequential([keras.Input((6,)), *layers, L.Dense(3)])
    compiled = PenalizedModel(network, [GradientNorm(0.1)])
    compiled.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return compiled


def raising(error):
    def function(callbacks=()):
        raise error

    return function


class Kept:
    def kept(self):
        return STATE


@pytest.mark.parametrize(
    ("text", "who"), [(UNHEALTHY, "worker 2 (c:1)"), (RESET, "worker 2 (c:1)")]
)
def test_a_lost_worker_is_named(monkeypatch, text, who):
    cluster = {"worker": ["a:1", "b:1", "c:1"]}
    config = {"cluster": cluster, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    lost = tf.errors.UnavailableError(None, None, text)
    with pytest.raises(WorkerError) as error:
        with_clear_errors(raising(lost), callbacks=[Kept()])
    message = str(error.value)
    assert message.startswith(f"TF_CONFIG: lost {who}, which has ended or cannot be reached")
    assert STATE in message and "Start the same command on all workers again" in message
    assert len(message.splitlines()) == 1
    assert error.value.__cause__ is lost


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.UnavailableError(None, None, "some server of a data set is away"),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        tf.errors.InvalidArgumentError(None, None, "of the network's own"),
        LookupError("gradient registry has no entry for: MyOperation"),
        FileNotFoundError(2, "No such file or directory", "images.bin"),
        ValueError("of the network's own"),
    ],
)
def test_what_is_not_certain_passes_unchanged(error):
    with pytest.raises(type(error)) as raised:
        with_clear_errors(raising(error), callbacks=[Kept()])
    assert raised.value is error


def test_an_error_for_lack_of_memory_gets_a_note():
    error = tf.errors.ResourceExhaustedError(None, None, "{{node a}} OOM when allocating tensor")
    with pytest.raises(tf.errors.ResourceExhaustedError) as raised:
        with_clear_errors(raising(error))
    assert raised.value.__notes__ == ["Memory ran out: try a smaller batch_size."]


def test_a_full_disk_below_tensorflow_is_an_error_of_writing():
    text = "/logs/events.v2; No space left on device\n\tCould not flush events file."
    full = tf.errors.ResourceExhaustedError(None, None, text)
    with pytest.raises(WriteError, match="path: got '/logs/events.v2'.*" + STATE) as error:
        with_clear_errors(raising(full), callbacks=[Kept()])
    assert (error.value.errno, error.value.filename) == (28, "/logs/events.v2")


def test_a_record_that_cannot_be_written_tells_of_the_kept_state(tmp_path):
    backup = callbacks.Backup(tmp_path / "state")
    lines = callbacks.JsonLines(tmp_path / "history.jsonl")
    trained = model()
    trained.fit(X, Y, verbose=0, callbacks=[backup, lines])
    lines.first_epoch = 1  # keeps the line of the first epoch
    size = (tmp_path / "history.jsonl").stat().st_size
    with no_file_above(size), pytest.raises(WriteError, match="epoch 1 is kept in") as error:
        trained.fit(X, Y, verbose=0, epochs=2, initial_epoch=1, callbacks=[lines, backup])
    assert error.value.filename == str(tmp_path / "history.jsonl")


# Gradients that shap leaves behind


def record(name, inputs, attributes, results):
    """As TensorFlow records operations in a process in which shap's DeepExplainer failed."""
    name = f"shap_{name}" if name == "Relu" else name
    return backprop.record_gradient(name, inputs, attributes, results)


def test_gradients_that_shap_left_behind_are_explained(monkeypatch):
    penalized = model(L.Dense(5, activation=tf.nn.relu))
    plain = PenalizedModel(keras.Sequential([keras.Input((6,)), L.Dense(3), L.Activation("relu")]))
    plain.compile("sgd", "mse")
    explain = saliency.InputGradient(penalized.network)
    monkeypatch.setattr(execute, "record_gradient", record)
    for attempt in (
        lambda: penalized.fit(X, Y, verbose=0),
        lambda: plain.fit(X, X[:, :3], verbose=0),
        lambda: explain(X, 0),
        lambda: model(L.Dense(5, activation=tf.nn.relu)),
    ):
        with pytest.raises(ModelError, match=r"'shap_Relu', a name that shap leaves.*restart it"):
            attempt()


# Errors raised inside a network


class Failing(L.Layer):
    """Fails when it runs, as code of a network may."""

    def __init__(self, error, **kwargs):
        super().__init__(**kwargs)
        self.error = error

    def call(self, x):
        raise self.error

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the network's own words"),
        tf.errors.InvalidArgumentError(None, None, "the network's own words"),
    ],
)
def test_an_error_inside_a_network_is_no_wrong_image_size(error):
    image = keras.Input((6,))
    network = keras.Model(image, L.Dense(3)(Failing(error)(image)))
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)
    with pytest.raises(type(error), match="the network's own words") as raised:
        evaluation.noise_robustness(network, batches, [0.1])
    assert "Resize the images" not in str(raised.value)
