"""A servable version after every epoch: which ones there are, and what they compute."""

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad import PenalizedModel, loading
from tfgrad.callbacks import Backup, ExportEachEpoch
from tfgrad.errors import ArgumentError
from tfgrad.export import saved_model, versions
from tfgrad.penalties import GradientNorm

RNG = np.random.default_rng(2)
X, Y = RNG.uniform(size=(8, 4)).astype("float32"), RNG.integers(0, 3, 8)


def compiled(penalties=()):
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = PenalizedModel(network, penalties)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.1), loss)
    return model


def fit(model, *hooks, epochs=1, done=0):
    model.fit(X, Y, 4, epochs, initial_epoch=done, callbacks=list(hooks), verbose=0, shuffle=False)


def export(directory, **options):
    return ExportEachEpoch(directory, methods=[], warmup=False, **options)


def versions_of(directory):
    """{version: its epoch} of every version, without anything else in the directory."""
    assert all(name.isdigit() for name in os.listdir(directory))
    found = {}
    for number, path in versions.existing(str(directory)).items():
        with open(os.path.join(path, "assets.extra", "tfgrad.json")) as file:
            found[number] = json.load(file)["training"]["epoch"]
    return found


@pytest.mark.long
def test_versions_serve_the_weights_of_their_epoch(tmp_path):
    expected = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: expected.append(model.network(X).numpy())
    )
    model = compiled([GradientNorm(0.1)])
    hook = ExportEachEpoch(tmp_path, ["input_gradient"], warmup=False, classes=["a", "b", "c"])
    fit(model, keep, hook, epochs=2)
    assert versions_of(tmp_path) == {1: 1, 2: 2}
    for number, logits in enumerate(expected, 1):
        served = loading.load_served(str(tmp_path / str(number)))
        found = served.signatures["serving_default"](image=tf.constant(X))
        np.testing.assert_allclose(found["logits"], logits, rtol=1e-5, atol=1e-6)
        assert "input_gradient" in served.signatures
    alone = compiled([GradientNorm(0.1)])
    fit(alone, epochs=2)
    for with_export, without in zip(model.variables, alone.variables, strict=True):
        np.testing.assert_array_equal(with_export, without)


@pytest.mark.slow
def test_every_second_epoch_the_last_one_and_numbers_above_those_of_others(tmp_path):
    (tmp_path / "4").mkdir()
    fit(compiled(), export(tmp_path, every=2, keep=2), epochs=5)
    (tmp_path / "4").rmdir()  # what others wrote stays
    assert versions_of(tmp_path) == {6: 4, 7: 5}


@pytest.mark.long
def test_a_killed_run_leaves_no_half_version_and_writes_none_twice(tmp_path, monkeypatch):
    state, directory = tmp_path / "state", tmp_path / "served"
    model, backup = compiled(), Backup(state)
    fit(model, backup, export(directory, keep=2), epochs=1)

    def kill(*_, **__):
        raise KeyboardInterrupt

    # Once while the version is written, once after it, before the state is saved.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(saved_model.publication.tf.saved_model, "save", kill)
        fit(model, export(directory, keep=2), epochs=2, done=1)
    assert versions_of(directory) == {1: 1}
    model = compiled()
    backup.restore(model)
    after = keras.callbacks.LambdaCallback(on_epoch_end=kill)
    with pytest.raises(KeyboardInterrupt):
        fit(model, export(directory, keep=2), after, epochs=3, done=1)
    assert versions_of(directory) == {1: 1, 2: 2}
    model = compiled()
    assert backup.restore(model) == 1
    fit(model, backup, export(directory, keep=2), epochs=3, done=1)
    assert versions_of(directory) == {2: 2, 3: 3}


@pytest.mark.slow
def test_a_new_run_keeps_the_versions_of_an_earlier_one(tmp_path):
    fit(compiled(), export(tmp_path), epochs=1)
    other = compiled()
    other.network.set_weights([w + 1 for w in other.network.get_weights()])
    fit(other, export(tmp_path, keep=1), epochs=2)
    assert versions_of(tmp_path) == {1: 1, 3: 2}


def test_what_is_not_finite_is_not_exported(tmp_path):
    model = compiled()
    model.network.layers[-1].bias.assign([float("nan")] * 3)
    fit(model, export(tmp_path))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every: got 0"),
        ({"keep": 0}, "keep: got 0; expected an integer ≥ 1"),
        ({"methods": ["gradcan"]}, "methods: got 'gradcan'; did you mean 'gradcam'"),
        ({"range": (0, 1)}, r"options: got \['range'\]; expected arguments of tfgrad.export.save"),
        ({"version": 3}, r"options: got \['version'\]"),
        ({"formats": ["onx"]}, "did you mean 'onnx'"),
    ],
)
def test_wrong_arguments(tmp_path, options, message):
    with pytest.raises(ArgumentError, match=message):
        ExportEachEpoch(tmp_path, **options)
