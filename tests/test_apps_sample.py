"""`python -m apps.sample`: both rules, both starts, the judge, and what it refuses."""

import json
import os

import keras
import numpy as np
import pytest

from apps import export, sample
from tests.app_run import in_process
from tests.mixture import gaussians
from tfgrad import data, sampling

# Digits have 8×8 pixels and ten classes; so has this density, which knows nothing of them.
MIXTURE = gaussians(classes=10, shape=(8, 8, 1), deviation=0.4)
FILES = ["results.json", "samples.md", "samples.npz", "samples.png", "traces.png"]
MEAN, DEVIATION = [0.3], [0.4]


@pytest.fixture(scope="module")
def app():
    with in_process(sample) as run:
        yield run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "mixture.keras"
    MIXTURE.network("float32").save(path)
    return path


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    """As apps.train leaves it: a network of normalised images, and a record that says so."""
    path = tmp_path_factory.mktemp("run")
    MIXTURE.network("float32").save(path / "network.keras")
    record = {"normalize": [MEAN, DEVIATION], "classes": [f"class {k}" for k in range(10)]}
    (path / "results.json").write_text(json.dumps(record))
    return path


def test_ascent_from_noise_before_a_judge(app, model, tmp_path, capsys):
    out = tmp_path / "out"
    few = ("--classes=3,1", "--count=3", "--steps=20", "--columns=2", "--batch_size=4")
    assert app(f"--model={model}", f"--judge={model}", *few, f"--out={out}", "--seed=5") == 0
    assert sorted(os.listdir(out)) == FILES
    expected = sampling.gradient_ascent(
        MIXTURE.network("float32"),
        [3, 3, 3, 1, 1, 1],
        sampling.noise(6, (8, 8, 1), seed=5),
        steps=20,
    )
    with np.load(out / "samples.npz") as arrays:
        assert set(arrays) == {"images", "start", "classes", "scores", "gradient_norms"}
        np.testing.assert_allclose(arrays["images"], expected.images, atol=1e-5)
        np.testing.assert_allclose(arrays["scores"], expected.scores, rtol=1e-4, atol=1e-3)
    record = json.loads((out / "results.json").read_text())
    assert record["settings"]["step_size"] == 0.1 and record["settings"]["pull"] == 0.01
    assert [row["class"] for row in record["classes"]] == ["3", "1", "all"]
    first, _, whole = record["classes"]
    assert first["start"] == pytest.approx(expected.scores[:3, 0].mean(), rel=1e-4)
    assert whole["end"] == pytest.approx(expected.scores[:, -1].mean(), rel=1e-4)
    # The judge is the density itself, and the samples are its modes.
    assert whole["judged"] == 1.0 and whole["images"] == 6
    table = (out / "samples.md").read_text()
    assert table in capsys.readouterr().out
    assert f"| 3 | 3 | {first['start']:.2f} | {first['end']:.2f} | 100.0 ± 0.0 |" in table
    for picture in ("samples.png", "traces.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_denoising_with_the_normalisation_of_a_run(app, run_directory, tmp_path):
    """The first images of each class, noised pixels in [0, 1], normalised inside the network."""
    out = tmp_path / "out"
    chosen = ("--start=data", "--dataset=digits", "--classes=0,7", "--count=2", "--steps=5")
    assert app(f"--model={run_directory}", *chosen, f"--out={out}") == 0
    test = data.load("digits", "test")
    index = [np.flatnonzero(test.labels == k)[i] for k in (0, 7) for i in (0, 1)]
    network = export.on_pixels(MIXTURE.network("float32"), (MEAN, DEVIATION))
    start = sampling.noised(test.images[index], 0.1)
    expected = sampling.gradient_ascent(
        network, test.labels[index], start, steps=5, step_size=0.01, pull=0
    )
    with np.load(out / "samples.npz") as arrays:
        np.testing.assert_array_equal(arrays["clean"], test.images[index])
        np.testing.assert_array_equal(arrays["start"], start)
        np.testing.assert_allclose(arrays["images"], expected.images, atol=1e-5)
        assert arrays["classes"].tolist() == [0, 0, 7, 7]
    rows = json.loads((out / "results.json").read_text())["classes"]
    assert [row["class"] for row in rows] == ["class 0", "class 7", "all"]
    assert "judged" not in rows[0]


def test_langevin_of_images_of_any_size(app, tmp_path):
    path, out = tmp_path / "any.keras", tmp_path / "out"
    inputs = keras.Input((None, None, 1))
    y = keras.layers.Conv2D(4, 3, activation="softplus")(inputs)
    y = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y))
    keras.Model(inputs, y).save(path)
    common = (f"--model={path}", "--rule=langevin", "--count=2", f"--out={out}")
    numbers = ("--steps=4", "--step_size=0.01")
    assert app(*common, *numbers) == 64
    assert app(*common, *numbers, "--image_size=6,5") == 0
    settings = json.loads((out / "results.json").read_text())["settings"]
    assert settings["rule"] == "langevin" and settings["bounds"] is None
    with np.load(out / "samples.npz") as arrays:
        assert arrays["images"].shape == (4, 6, 5, 1) and arrays["images"].min() < 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--model=",), 64, "--model: not given; name a .keras file or a work directory"),
        (("--model=nowhere",), 65, "--model: 'nowhere' does not exist"),
        (("--judge=nowhere",), 65, "--judge: 'nowhere' does not exist"),
        (("--classes=10",), 64, "--classes: got 10; the model has classes 0 to 9"),
        (("--classes=cat",), 64, "--classes: got cat; expected whole numbers from 0 up"),
        (("--start=data",), 64, "--dataset, --start=data: give both or none"),
        (("--dataset=digits",), 64, "--dataset, --start=data: give both or none"),
        (
            ("--start=data", "--dataset=digits", "--count=99"),
            65,
            "--count: got 99; 'test' of 'digits' holds 36 images of class 0",
        ),
        (("--rule=langevin",), 64, "--steps: with --rule=langevin it is wanted, it has no default"),
        (
            ("--rule=langevin", "--steps=1", "--step_size=1", "--pull=1"),
            64,
            "--pull: with --rule=langevin it belongs to --rule=ascent",
        ),
        (("--step_size=-1",), 64, "step_size: got -1.0; expected a finite number above 0"),
        (
            ("--rule=langevin", "--steps=90", "--step_size=1e4"),
            70,
            "step_size: got 10000; at step",
        ),
    ],
)
def test_refuses(app, model, tmp_path, capsys, arguments, code, message):
    out = tmp_path / "out"
    assert app(f"--model={model}", f"--out={out}", *arguments) == code
    assert message in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_leaves_other_directories_alone(app, model, tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("dear")
    assert app(f"--model={model}", "--steps=1", f"--out={tmp_path}") == 64
    assert "holds 'letter.txt', which is no result of this command" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["letter.txt"]
