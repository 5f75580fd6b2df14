"""Configs that declare more weights, calls or steps than a file of their size can mean."""

import json
import tracemalloc
import zipfile

import keras
import pytest

from tests.helpers.loading_cases import build
from tfgrad import loading
from tfgrad.errors import ArgumentError, ModelError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
L = keras.layers


def edited(path, change):
    """The `.keras` file with every serialised object changed by `change(class name, object)`."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    config, stack = json.loads(contents["config.json"]), []
    stack.append(config)
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                change(value["class_name"], value)
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    contents["config.json"] = json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def saved(tmp_path, layers, shape, name="model.keras", **compiled):
    network = keras.Sequential([keras.Input(shape), *layers])
    if compiled:
        network.compile(**compiled)
    network.save(tmp_path / name)
    return tmp_path / name


def claiming(kind, **values):
    def change(name, entry):
        if name == kind:
            entry["config"].update(values)

    return change


# --- weights that the file does not hold ------------------------------------------------------

IMAGES, STEPS = (8, 8, 3), (5, 4)
TOO_LARGE = {
    "units": ([L.Dense(3)], IMAGES, claiming("Dense", units=2**31)),
    "an initializer": (
        [L.Dense(3, kernel_initializer="identity")],
        IMAGES,
        claiming("Dense", units=2**28),
    ),
    "filters": ([L.Conv2D(3, 3)], IMAGES, claiming("Conv2D", filters=2**30)),
    "kernel": (
        [L.Conv2D(3, 3, padding="same")],
        IMAGES,
        claiming("Conv2D", kernel_size=[2**20] * 2),
    ),
    "multiplier": (
        [L.DepthwiseConv2D(3)],
        IMAGES,
        claiming("DepthwiseConv2D", depth_multiplier=2**30),
    ),
    "vocabulary": ([L.Embedding(4, 4)], (5,), claiming("Embedding", input_dim=2**40)),
    "cells": ([L.LSTM(4)], STEPS, claiming("LSTM", units=2**20)),
    "inner": ([L.TimeDistributed(L.Dense(3))], STEPS, claiming("Dense", units=2**36)),
    "einsum": (
        [L.EinsumDense("abcd,de->abce", (8, 8, 4))],
        IMAGES,
        claiming("EinsumDense", output_shape=[8, 8, 2**36]),
    ),
}


@pytest.mark.parametrize("case", TOO_LARGE)
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_weights_that_the_file_does_not_hold(tmp_path, case, suffix):
    layers, shape, change = TOO_LARGE[case]
    network = keras.Sequential([keras.Input(shape), *map(again, layers)])
    path = tmp_path / f"model.{suffix}"
    network.save(path)
    edited(path, change) if suffix == "keras" else edited_h5(path, change)
    tracemalloc.start()
    with pytest.raises(ModelError, match=r"declares the weight .* where the file holds \d+ bytes"):
        loading.load(path)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def again(layer):
    """The layer anew, as cases share it."""
    return type(layer).from_config(layer.get_config())


def edited_h5(path, change):
    import h5py

    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        stack = [config]
        while stack:
            value = stack.pop()
            if isinstance(value, dict):
                if "class_name" in value:
                    change(value["class_name"], value)
                stack.extend(value.values())
            elif isinstance(value, list):
                stack.extend(value)
        file.attrs["model_config"] = json.dumps(config).encode()


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_the_state_of_an_optimizer_that_was_not_saved(tmp_path):
    network = keras.Sequential([keras.Input((1500,)), L.Dense(2000)])  # 11 MiB of weights
    network.compile(keras.optimizers.Adam(amsgrad=True), "mse")  # 34 MiB of state, once it trains
    network.save(tmp_path / "model.keras")
    assert loading.load(tmp_path / "model.keras").count_params() == 3_002_000


def test_metrics_whose_state_is_larger_than_the_file(tmp_path):
    large = keras.metrics.MeanIoU(num_classes=2500)  # 24 MiB
    path = saved(tmp_path, [L.Dense(3)], (4,), optimizer="sgd", loss="mse", metrics=[large])
    assert loading.load(path).compiled


# --- values of which Keras makes lists and loops ----------------------------------------------

COSTLY = {
    "thresholds": (
        [L.Flatten(), L.Dense(1)],
        IMAGES,
        claiming("AUC", num_thresholds=10**9),
        "num_thresholds=1000000000 of 'AUC'; expected at most",
    ),
    "not a number": (
        [L.Flatten(), L.Dense(1)],
        IMAGES,
        claiming("AUC", num_thresholds=float("nan")),
        "num_thresholds=nan of 'AUC'",
    ),
    "classes of a metric": (
        [L.Flatten(), L.Dense(1)],
        IMAGES,
        claiming("AUC", num_labels=2**34, multi_label=True),
        "metrics whose state takes .* load with compile=False",
    ),
    "iterations": (
        [L.SpectralNormalization(L.Conv2D(2, 3))],
        IMAGES,
        claiming("SpectralNormalization", power_iterations=10**9),
        "power_iterations=1000000000",
    ),
    "unrolled": (
        [L.LSTM(4, unroll=True)],
        STEPS,
        claiming("InputLayer", batch_shape=[None, 10**7, 4]),
        "unrolled over 10000000 steps",
    ),
}


@pytest.mark.parametrize("case", COSTLY)
def test_costly_values(tmp_path, case):
    layers, shape, change, message = COSTLY[case]
    compiled = {"loss": "mse", "optimizer": "sgd", "metrics": [keras.metrics.AUC()]}
    path = saved(tmp_path, map(again, layers), shape, **compiled)
    with pytest.raises(ModelError, match=message):
        loading.load(edited(path, change))


def test_a_call_without_a_tensor_does_not_run(tmp_path):
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.ops.ones_like(inputs) + inputs).save(tmp_path / "model.keras")

    def change(name, entry):
        if name == "OnesLike":
            entry["inbound_nodes"][0]["args"] = [[1, 2]]

    with pytest.raises(ModelError, match="a call of 'OnesLike' without a tensor"):
        loading.load(edited(tmp_path / "model.keras", change))


def test_models_that_call_their_inner_model_twice(tmp_path, monkeypatch):
    inputs = keras.Input((4,))
    network = keras.Model(inputs, inputs * 2.0)
    for _ in range(4):
        inputs = keras.Input((4,))
        network = keras.Model(inputs, network(network(inputs)))
    network.save(tmp_path / "model.keras")
    assert loading.load(tmp_path / "model.keras")
    monkeypatch.setattr("tfgrad.loading.config_values.MAX_CALLS", 50)
    with pytest.raises(ModelError, match="declares 77 calls of layers; expected at most 50"):
        loading.load(tmp_path / "model.keras")


def test_the_time_of_building(tmp_path):
    build().save(tmp_path / "model.keras")
    with pytest.raises(ModelError, match=r"takes more than 1e-09 s.*limit_seconds="):
        loading.load(tmp_path / "model.keras", limit_seconds=1e-9)
    with pytest.raises(ArgumentError, match="limit_seconds: got 0"):
        loading.load(tmp_path / "model.keras", limit_seconds=0)
