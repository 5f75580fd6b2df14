"""The callbacks: a run that is cut anywhere goes on exactly."""

import json
import os

import keras
import numpy as np
import pytest
from keras import layers as L

from tfgrad import PenalizedModel, callbacks, data
from tfgrad.errors import NonFiniteError
from tfgrad.penalties import GradientNorm, ScoreMatching

BATCH = 8


def images():
    rng = np.random.default_rng(0)
    pixels = rng.uniform(size=(22, 8, 8, 1)).astype("float32")
    return data.from_arrays(pixels, rng.integers(0, 3, 22))


def model_with_dropout(seed=0):
    keras.utils.set_random_seed(seed)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(3, 3, strides=2, activation="softplus"),
            L.Dropout(0.4),
            L.Flatten(),
            L.Dense(3),
        ]
    )
    model = PenalizedModel(network, [GradientNorm(0.1), ScoreMatching(0.01, sigma=0.1)])
    model.compile(
        keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def train(model, done, epochs, *hooks):
    dataset = images()
    stream = data.pipeline(dataset, BATCH, training=True, augment=True, seed=3, start_epoch=done)
    return model.fit(
        stream,
        initial_epoch=done,
        epochs=epochs,
        steps_per_epoch=data.steps_per_epoch(dataset, BATCH),
        callbacks=list(hooks),
        shuffle=False,
        verbose=0,
    ).history


def weights_of(model):
    return [v.numpy() for v in model.network.weights]


def assert_identical(a, b):
    for got, expected in zip(a, b, strict=True):
        np.testing.assert_array_equal(got, expected)


def dense():
    network = keras.Sequential([keras.Input((2,)), L.Dense(1)])
    network.compile("sgd", "mse")
    return network


def fit_dense(model, epochs, *hooks, done=0):
    x = np.ones((4, 2), "float32")
    return model.fit(x, x[:, :1], 2, epochs, initial_epoch=done, callbacks=list(hooks), verbose=0)


# Backup


def test_a_resumed_run_is_the_uninterrupted_run_bit_by_bit(tmp_path):
    whole = model_with_dropout()
    expected = train(whole, 0, 4)
    first = model_with_dropout()
    train(first, 0, 2, callbacks.Backup(tmp_path))
    first.penalties[0].weight = 0.1
    second = model_with_dropout(seed=1)  # Everything must come from the file.
    backup = callbacks.Backup(tmp_path)
    done = backup.restore(second)
    assert done == 2
    assert_identical(weights_of(second), weights_of(first))
    history = train(second, done, 4, backup)
    assert_identical(weights_of(second), weights_of(whole))
    for name, values in history.items():
        assert values == expected[name][2:], name
    assert os.listdir(tmp_path) == ["epoch-00004.weights.h5"]


def test_nothing_to_restore(tmp_path):
    model = dense()
    before = weights_of_dense(model)
    backup = callbacks.Backup(tmp_path / "not there")
    assert backup.restore(model) == 0
    assert_identical(weights_of_dense(model), before)
    assert "no epoch was finished" in backup.kept()


def weights_of_dense(model):
    return [v.numpy() for v in model.weights]


@pytest.mark.long
@pytest.mark.parametrize("moment", ["while writing", "before the rename", "before the removal"])
def test_killed_while_saving(tmp_path, monkeypatch, moment):
    model = dense()
    backup = callbacks.Backup(tmp_path)
    fit_dense(model, 1, backup)
    states = {1: weights_of_dense(model)}

    def kill(*_):
        raise KeyboardInterrupt

    moments = {
        "while writing": "fsync",
        "before the rename": "replace",
        "before the removal": "remove",
    }
    monkeypatch.setattr(os, moments[moment], kill)
    with pytest.raises(KeyboardInterrupt):
        fit_dense(model, 2, backup, done=1)
    monkeypatch.undo()
    states[2] = weights_of_dense(model)
    survivor = 2 if moment == "before the removal" else 1
    other = dense()
    again = callbacks.Backup(tmp_path)
    assert again.kept() == f"the state of epoch {survivor} is kept in {tmp_path}"
    assert again.restore(other) == survivor
    assert_identical(weights_of_dense(other), states[survivor])
    # And the remains are in nobody's way.
    fit_dense(other, 3, again, done=survivor)
    assert os.listdir(tmp_path) == ["epoch-00003.weights.h5"]


@pytest.mark.parametrize(
    "remains", ["unfinished.weights.h5", "epoch-00002.weights.h5.tmp-123-456.weights.h5"]
)
def test_what_a_kill_left_is_neither_restored_nor_kept(tmp_path, remains):
    """The names under which version 0.1 and this one write before they rename."""
    model, backup = dense(), callbacks.Backup(tmp_path)
    fit_dense(model, 1, backup)
    (tmp_path / remains).write_bytes(b"\x89HDF half a file")
    (tmp_path / "best.weights.h5").write_bytes(b"a file of somebody else")
    again = callbacks.Backup(tmp_path)
    assert again.restore(dense()) == 1
    fit_dense(model, 2, again, done=1)
    assert sorted(os.listdir(tmp_path)) == ["best.weights.h5", "epoch-00002.weights.h5"]


class Break(keras.callbacks.Callback):
    """Sets one weight at an epoch's end; comes before Backup in the list."""

    def __init__(self, epoch, value):
        super().__init__()
        self.epoch, self.value = epoch, value

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            kernel = self.model.layers[-1].kernel
            kernel.assign(kernel + np.array([[0.0], [self.value]], "float32"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, value):
    model, backup = dense(), callbacks.Backup(tmp_path)
    with pytest.raises(NonFiniteError) as error:
        fit_dense(model, 3, Break(1, value), backup)
    message = str(error.value)
    assert "kernel is not finite after epoch 2" in message
    assert f"the state of epoch 1 is kept in {tmp_path}" in message
    assert "Try a lower learning rate" in message
    other = dense()
    assert callbacks.Backup(tmp_path).restore(other) == 1
    assert np.isfinite(weights_of_dense(other)[0]).all()


def test_a_first_epoch_that_blows_up_promises_nothing(tmp_path):
    backup = callbacks.Backup(tmp_path / "state")
    with pytest.raises(NonFiniteError, match=r"no epoch was finished, so .*holds no state"):
        fit_dense(dense(), 3, Break(0, np.nan), backup)
    stop = callbacks.StopOnNonFinite(backup.kept)
    with pytest.raises(NonFiniteError, match=r"no epoch was finished, so .*holds no state"):
        stop.on_train_batch_end(0, {"loss": float("nan")})


# StopOnNonFinite


def test_stop_on_non_finite_names_place_and_culprit():
    stop = callbacks.StopOnNonFinite("nothing is lost")
    stop.on_epoch_begin(4)
    stop.on_train_batch_end(0, {"loss": 1.0, "gradient_norm": float("inf")})
    stop.on_train_batch_end(0, {})
    with pytest.raises(NonFiniteError) as error:
        stop.on_train_batch_end(6, {"loss": float("nan"), "a": 1.0, "b": float("inf")})
    assert str(error.value) == (
        "loss: nan at batch 7 of epoch 5 (also b); nothing is lost. "
        "Try a lower learning rate or penalty weight."
    )


# JsonLines


def test_json_lines_drop_what_will_be_run_again_and_what_was_cut(tmp_path):
    path = tmp_path / "history.jsonl"
    fit_dense(dense(), 3, callbacks.JsonLines(path))
    lines = path.read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert {"epoch", "seconds", "loss"} == set(json.loads(lines[0]))
    # Killed in the middle of the third line.
    path.write_text("\n".join(lines[:2]) + "\n" + lines[2][:-5])
    assert callbacks.read_json_lines(path) == [json.loads(line) for line in lines[:2]]
    # Its state is that of the first epoch: two and three are run again.
    fit_dense(dense(), 3, callbacks.JsonLines(path, first_epoch=1), done=1)
    after = path.read_text().splitlines()
    assert after[0] == lines[0]
    assert [json.loads(line)["epoch"] for line in after] == [1, 2, 3]


def test_no_file_no_records(tmp_path):
    assert callbacks.read_json_lines(tmp_path / "history.jsonl") == []


def test_a_new_run_starts_a_new_record(tmp_path):
    path = tmp_path / "history.jsonl"
    for _ in range(2):
        fit_dense(dense(), 1, callbacks.JsonLines(path))
    assert len(callbacks.read_json_lines(path)) == 1
