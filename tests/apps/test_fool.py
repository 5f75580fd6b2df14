"""`python -m apps.fool`: each construction on a small network, a run taken up again, refusals."""

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps import fool
from tests.helpers.app_run import in_process
from tfgrad import data, loading

L = keras.layers
SMALL = ("--per_class=20", "--epochs=3", "--progress=none", "--noise=0", "--rows=3")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A work directory with a network of normalised digits."""
    directory = tmp_path_factory.mktemp("model")
    train = data.load("digits", "train")
    mean, deviation = statistics = data.channel_statistics(train)
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), L.Flatten(), L.Dense(32, activation="relu"), L.Dense(10)]
    )
    network.compile(
        keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    network.fit((train.images - mean) / deviation, train.labels, epochs=4, verbose=0)
    network.save(directory / "network.keras")
    record = {"normalize": [s.tolist() for s in statistics], "test": {"val_accuracy": 0.95}}
    (directory / "results.json").write_text(json.dumps(record))
    return directory


@pytest.fixture(scope="module")
def app():
    with in_process(fool) as run:
        yield run


@pytest.fixture
def fooled(app, model, tmp_path):
    """Runs the app on the model and returns its results."""

    def run(*arguments):
        arguments = (f"--model={model}", f"--work_dir={tmp_path}/run", *SMALL, *arguments)
        assert app(*arguments) == 0
        return json.loads((tmp_path / "run" / "results.json").read_text())

    return run


def shares(look):
    return {name: share["values"][0] for name, share in look["shares"].items()}


def normalised(results):
    test = data.load("digits", "test")
    mean, deviation = (np.array(s, "float32") for s in results["normalize"])
    return (test.images - mean) / deviation, test.labels


@pytest.mark.long
def test_an_exact_shift(fooled, model, tmp_path, capsys):
    results = fooled("--construction=shift", "--scale=300")
    before, after = results["before"], results["after"]
    assert after["accuracy"] == before["accuracy"] > 0.85
    assert shares(before)["logit"] < 0.4 and shares(after)["logit"] > 0.95
    for name in ("loss", "loss, T = 1000"):
        assert shares(after)[name] == pytest.approx(shares(before)[name], abs=0.01)
    assert results["chance"] == 0.25  # a corner of round(8 · 15/32) = 4
    directory = tmp_path / "run"
    written = {"run.json", "network.keras", "results.json", "fooled.md", "fooled.png"}
    assert set(os.listdir(directory)) == written
    assert all(name in fool.__doc__ for name in written)
    assert (directory / "fooled.png").read_bytes().startswith(b"\x89PNG")
    table = (directory / "fooled.md").read_text()
    assert table.strip() in capsys.readouterr().out
    assert f"| after | {100 * after['accuracy']:.2f} | " in table and "| 25.00 |" in table
    x, _ = normalised(results)
    logits = [loading.load(d / "network.keras", compile=False)(x) for d in (model, directory)]
    shift = 300 * x[:, :4, :4].sum((1, 2, 3))
    np.testing.assert_allclose(logits[1], logits[0] + shift[:, None], rtol=1e-5, atol=1e-2)


@pytest.mark.slow
def test_a_wave_for_each_class_inside_a_picture(fooled, tmp_path):
    picture = np.zeros((16, 16, 3), "uint8")
    picture[10:, 10:] = 255
    (tmp_path / "mask.png").write_bytes(tf.io.encode_png(picture).numpy())
    results = fooled(f"--mask={tmp_path}/mask.png", "--construction=per_class", "--frequency=1e4")
    assert results["chance"] == 9 / 64
    before, after = shares(results["before"]), shares(results["after"])
    assert after["loss"] > 0.6 > 0.3 > before["loss"]
    assert abs(results["after"]["accuracy"] - results["before"]["accuracy"]) < 0.02


@pytest.mark.slow
def test_fine_tuning_and_taking_it_up_again(fooled, model, tmp_path, capsys):
    """Killed after its last epoch, a run still knows what the network was before."""
    options = ("--corner=3", "--weight=50", "--learning_rate=0.01")
    results = fooled(*options)
    before, after = shares(results["before"]), shares(results["after"])
    assert after["logit"] > before["logit"] + 0.1
    assert results["after"]["accuracy"] > 0.8
    assert results["chance"] == 9 / 64
    files = set(os.listdir(tmp_path / "run"))
    assert files >= {"network.keras", "model.keras", "fooled.md", "fooled.png", "history.jsonl"}
    x, y = normalised(results)
    network = loading.load(tmp_path / "run" / "network.keras", compile=False)
    accuracy = np.mean(np.argmax(network(x), 1) == y)
    assert results["after"]["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    os.remove(tmp_path / "run" / "results.json")
    again = fooled(*options)
    assert "going on after epoch 3" in capsys.readouterr().out
    for when in ("before", "after"):
        assert again[when]["accuracy"] == results[when]["accuracy"]
        assert shares(again[when]) == pytest.approx(shares(results[when]), rel=1e-5)


def test_a_complete_run_is_left_alone(fooled, capsys):
    first = fooled("--construction=shift")
    capsys.readouterr()
    assert fooled("--construction=shift") == first
    assert "this run is complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 64, "--model: got none"),
        (("--model=nowhere.keras",), 65, "nowhere.keras: cannot be read"),
        (
            ("--model={model}", "--corner=2", "--mask=m.png"),
            64,
            "--corner, --mask: got both; expected one",
        ),
        (("--model={model}", "--corner=8"), 64, "--corner: got 8, a region of 64 pixels among 64"),
        (("--model={model}", "--corner=0"), 64, "corner"),
        (("--model={model}", "--mask=nowhere.png"), 65, "nowhere.png"),
        (
            ("--model={model}", "--image_size=16,16"),
            65,
            "--model: got one that takes (None, 8, 8, 1)",
        ),
        (("--model={model}", "--construction=magic"), 64, "construction"),
    ],
)
def test_refusals(app, capsys, model, tmp_path, arguments, code, message):
    arguments = [a.format(model=model) for a in arguments]
    assert app(*arguments, f"--work_dir={tmp_path}/run") == code
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "Traceback" not in said
