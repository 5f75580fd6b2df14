"""Training that cannot write, and two trainings that would write to the same files."""

import os

import keras
import numpy as np
import pytest
from keras import layers as L

from tests.helpers.faults import another_process, no_file_above
from tfgrad import callbacks
from tfgrad.errors import InUseError, ResumeError, WriteError
from tfgrad.internal import ownership


def dense():
    network = keras.Sequential([keras.Input((2,)), L.Dense(1)])
    network.compile("sgd", "mse")
    return network


def fit(model, epochs, *hooks, done=0):
    x = np.ones((4, 2), "float32")
    model.fit(x, x[:, :1], 2, epochs, initial_epoch=done, callbacks=list(hooks), verbose=0)


# A full disk


def test_a_state_that_cannot_be_written_leaves_the_earlier_one(tmp_path):
    """The process goes on, the error tells the path and the state that is kept, and so it is."""
    model, backup = dense(), callbacks.Backup(tmp_path)
    fit(model, 1, backup)
    weights = model.get_weights()
    with no_file_above(1000), pytest.raises(WriteError) as error:
        fit(model, 2, backup, done=1)
    path = str(tmp_path / "epoch-00002.weights.h5")
    assert isinstance(error.value, OSError)
    assert (error.value.filename, error.value.strerror) == (path, "File too large")
    message = str(error.value)
    assert message.startswith(f"directory: got '{path}', which cannot be written (File too large)")
    assert f"the state of epoch 1 is kept in {tmp_path}" in message
    assert "ulimit -f" in message
    assert set(os.listdir(tmp_path)) == {"epoch-00001.weights.h5", ".lock"}
    other = dense()
    assert callbacks.Backup(tmp_path).restore(other) == 1
    for got, expected in zip(other.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(got, expected)
    fit(model, 3, backup, done=2)
    assert os.listdir(tmp_path) == ["epoch-00003.weights.h5"]


def test_a_full_disk_names_the_space_that_is_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    match = r"\(No space left on device, [\d.]+ MiB free\).*no epoch was finished"
    with pytest.raises(WriteError, match=match):
        fit(dense(), 1, callbacks.Backup(tmp_path))


def test_a_line_that_cannot_be_written_names_the_file(tmp_path):
    path = tmp_path / "history.jsonl"
    with no_file_above(10), pytest.raises(WriteError, match=r"path: got .*history.jsonl'") as error:
        fit(dense(), 1, callbacks.JsonLines(path))
    assert error.value.filename == str(path)


# One writer at a time


@pytest.mark.parametrize("kind", ["Backup", "JsonLines"])
def test_a_second_training_is_refused_while_the_first_runs(tmp_path, kind):
    path = tmp_path / "state"
    hook = getattr(callbacks, kind)(path)

    class Second(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            other = getattr(callbacks, kind)(path)
            with another_process(other.on_train_begin) as (_, answer):
                answers.append(answer)

    answers = []
    fit(dense(), 1, hook, Second())
    assert f"InUseError: {'directory' if kind == 'Backup' else 'path'}: got '{path}'" in answers[0]
    with another_process(getattr(callbacks, kind)(path).on_train_begin) as (_, answer):
        assert answer == "None"
        with pytest.raises(InUseError):
            fit(dense(), 1, hook)


def test_a_state_can_be_read_while_another_process_writes(tmp_path):
    model, backup = dense(), callbacks.Backup(tmp_path)
    fit(model, 1, backup)
    with another_process(lambda: ownership.own(tmp_path / ".lock", "a", "b")) as (_, answer):
        assert answer == "True"
        assert callbacks.Backup(tmp_path).restore(dense()) == 1


def test_training_does_not_go_on_from_a_state_that_is_outdated(tmp_path):
    model, backup = dense(), callbacks.Backup(tmp_path)
    fit(model, 1, backup)
    late = callbacks.Backup(tmp_path)
    done = late.restore(model)
    fit(model, 2, backup, done=1)
    with pytest.raises(ResumeError, match=r"state of epoch 2; expected that of epoch 1"):
        fit(model, 3, late, done=done)
    fit(model, 3, late, done=late.restore(model))
    fit(model, 4, late, done=3)  # a second fit of the one that wrote the state
    ownership.release(tmp_path / ".lock")


def test_the_worker_that_does_not_own_the_directory_does_not_write(tmp_path, monkeypatch):
    """Two workers of one run with the same directory, of which the other came first."""
    monkeypatch.setattr(ownership, "own", lambda *_: False)
    hooks = callbacks.Backup(tmp_path / "state"), callbacks.JsonLines(tmp_path / "history.jsonl")
    fit(dense(), 2, *hooks)
    assert os.listdir(tmp_path) == []
