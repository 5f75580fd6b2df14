"""`python -m apps.sample`: both rules, both starts, the judge, and what it refuses."""

import json
import os

import keras
import numpy as np
import pytest

from apps import sample
from apps.common import trained_networks
from tests.helpers.app_run import in_process
from tests.helpers.arrays import arrays_of
from tests.helpers.mixture import gaussians
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


@pytest.mark.long
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


@pytest.mark.long
def test_denoising_with_the_normalisation_of_a_run(app, run_directory, tmp_path):
    """The first images of each class, noised pixels in [0, 1], normalised inside the network."""
    out = tmp_path / "out"
    chosen = ("--start=data", "--dataset=digits", "--classes=0,7", "--count=2", "--steps=5")
    assert app(f"--model={run_directory}", *chosen, f"--out={out}") == 0
    test = data.load("digits", "test")
    index = [np.flatnonzero(test.labels == k)[i] for k in (0, 7) for i in (0, 1)]
    network = trained_networks.on_pixels(MIXTURE.network("float32"), (MEAN, DEVIATION))
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
        (("--model=",), 64, "--model: got none; expected a .keras file or a work directory"),
        (("--model=nowhere",), 65, "--model: got 'nowhere', which does not exist"),
        (("--judge=nowhere",), 65, "--judge: got 'nowhere', which does not exist"),
        (("--classes=10",), 64, "--classes: got 10; expected classes from 0 to 9"),
        (("--classes=cat",), 64, "--classes: got cat; expected integers ≥ 0"),
        (("--start=data",), 64, "--dataset, --start=data: got one of them; expected both or none"),
        (
            ("--dataset=digits",),
            64,
            "--dataset, --start=data: got one of them; expected both or none",
        ),
        (
            ("--start=data", "--dataset=digits", "--count=99"),
            65,
            "--count: got 99; expected at most 36, the images of class 0 in 'test' of 'digits'",
        ),
        (
            ("--rule=langevin",),
            64,
            "--steps: got none; expected a number, because --rule=langevin has no default",
        ),
        (
            ("--rule=langevin", "--steps=1", "--step_size=1", "--pull=1"),
            64,
            "--pull: got 1.0 with --rule=langevin; expected none; try --rule=ascent",
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


def saved(path, inputs, *outputs):
    keras.Model(inputs, outputs[0] if len(outputs) == 1 else outputs).save(path)
    return path


def dense(inputs, classes, **options):
    return keras.layers.Dense(classes, **options)(keras.layers.Flatten()(inputs))


@pytest.mark.parametrize(
    ("judge", "code", "message"),
    [
        ((8, 5, {}), 64, "judge: got one of 5 classes for samples of 10"),
        ((6, 10, {}), 64, "images: got shape (None, 8, 8, 1); the judge takes (None, 6, 6, 1)"),
        ((8, 1, {"activation": "softmax"}), 65, "got a softmax of one unit"),
    ],
)
def test_a_judge_is_refused_before_the_work(
    app, model, tmp_path, capsys, monkeypatch, judge, code, message
):
    size, classes, options = judge
    inputs = keras.Input((size, size, 1))
    path = saved(tmp_path / "judge.keras", inputs, dense(inputs, classes, **options))
    monkeypatch.delattr(sampling, "gradient_ascent")
    assert app(f"--model={model}", f"--judge={path}", f"--out={tmp_path / 'out'}") == code
    assert message in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("flag", ["model", "judge"])
def test_refuses_models_that_do_not_go_from_images_to_logits(app, model, tmp_path, capsys, flag):
    flat, image = keras.Input((64,)), keras.Input((8, 8, 1))
    other, whole = keras.Input((8, 8, 1)), keras.Input((8, 8, 1), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 255)(whole)
    path = tmp_path / "model.keras"
    for inputs, outputs, message in (
        (
            flat,
            [dense(flat, 10)],
            "got one that takes (None, 64); expected images [batch, height, width",
        ),
        (
            image,
            [dense(image, 10), dense(image, 3)],
            "it returns [(None, 10), (None, 3)]; expected",
        ),
        (image, [image * 2], "it returns [(None, 8, 8, 1)]; expected one tensor of logits"),
        ([image, other], [dense(image, 10) + dense(other, 10)], "got 2 inputs"),
        (whole, [dense(scaled, 10)], "its input is uint8, and only a float input"),
    ):
        chosen = {"model": model, flag: saved(path, inputs, *outputs)}
        arguments = [f"--{name}={where}" for name, where in chosen.items()]
        assert app(*arguments, f"--out={tmp_path / 'out'}") == 65
        said = capsys.readouterr().err
        assert f"--{flag}: model " in said and message in said and said.count("\n") == 1


def test_a_dict_of_one_input_and_one_output(app, model, tmp_path):
    image = keras.Input((8, 8, 1), name="image")
    path = tmp_path / "named.keras"
    logits = MIXTURE.network("float32")(image)
    keras.Model({"image": image}, {"logits": logits}).save(path)
    few = ("--classes=1", "--count=1", "--steps=2")
    for name, where in (("plain", model), ("named", path)):
        out = f"--out={tmp_path / name}"
        assert app(f"--model={where}", f"--judge={where}", *few, out) == 0
    plain, named = (arrays_of(tmp_path / name / "samples.npz") for name in ("plain", "named"))
    np.testing.assert_allclose(named["images"], plain["images"], atol=1e-6)


def test_leaves_other_directories_alone(app, model, tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("dear")
    assert app(f"--model={model}", "--steps=1", f"--out={tmp_path}") == 64
    message = capsys.readouterr().err
    assert "which holds 'letter.txt'; expected a new directory or an earlier result" in message
    assert os.listdir(tmp_path) == ["letter.txt"]
