"""`python -m apps.evaluate`: tables, curves and rows of several networks, and its refusals."""

import csv
import json
import os

import keras
import numpy as np
import pytest

import tfgrad
from apps.evaluate import __main__ as evaluate
from apps.evaluate import network_tests, report
from tests.helpers.app_run import in_process
from tfgrad import data, evaluation
from tfgrad.evaluation import Measurement
from tfgrad.internal import files

COUNT = 40
FEW = (
    f"--count={COUNT}",
    "--batch_size=16",
    "--noise_sigmas=0,0.3",
    "--repeats=2",
    "--epsilons=0,8/255",
    "--attack_steps=2",
    "--density_sigmas=0.001,0.1",
    "--fractions=0.1,0.5",
)
ATTACKS = {
    "FGSM": {"attack": "fgsm"},
    "PGD, 2 steps of 1.25 ε, 1 random start": {"attack": "pgd", "steps": 2},
}


@pytest.fixture(scope="module")
def app():
    with in_process(evaluate) as run:
        yield run


def network(seed, shape=(8, 8, 1), classes=10):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(shape)
    x = keras.layers.Conv2D(6, 3, activation="softplus")(inputs)
    return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.Flatten()(x)))


STATISTICS = [[0.25], [0.5]]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A bare file, the file of a penalised model, and a run whose images are normalised."""
    directory = tmp_path_factory.mktemp("models")
    network(0).save(directory / "bare.keras")
    tfgrad.PenalizedModel(network(1)).save(directory / "penalised.keras")
    (directory / "run").mkdir()
    network(2).save(directory / "run" / "network.keras")
    files.write_json(str(directory / "run" / "results.json"), {"normalize": STATISTICS})
    network(3, (9, 9, 1)).save(directory / "large.keras")
    network(4, classes=3).save(directory / "three.keras")
    flat = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    keras.Sequential(flat).save(directory / "flat.keras")
    return directory


def results_of(out):
    record = json.loads((out / "results.json").read_text())
    return record, {
        test: {name: Measurement.from_json(content) for name, content in rows.items()}
        for test, rows in record["tests"].items()
    }


@pytest.mark.long
def test_every_test_of_every_model(app, models, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    named = f"--models=a={models}/bare.keras,b={models}/penalised.keras"
    assert app(named, *FEW, "--baseline=a", "--seed=3", f"--out={out}") == 0
    printed = capsys.readouterr().out
    curves = {"noise", "adversarial", "density", "pixels", "pixels_of_baseline"}
    files = {f"{t}.{s}" for t in curves for s in ("png", "csv")}
    assert set(os.listdir(out)) == files | {"energy.csv", "tables.md", "results.json"}
    assert os.listdir(out.parent) == ["out"]
    assert all((out / f"{test}.png").read_bytes().startswith(b"\x89PNG") for test in curves)
    text = (out / "tables.md").read_text()
    assert text.strip() in printed and "10 of 10: energy of b" in printed
    assert text.count("| noise σ → |") == 2 and text.count("| fraction of pixels → |") == 2
    assert "without the least salient pixels by other maps, of a: accuracy (%), higher" in text

    record, found = results_of(out)
    assert set(found) == curves | {"energy"} and "tfgrad" in record["versions"]
    assert record["flags"]["seed"] == 3
    assert set(found["energy"]) == {
        f"{m}, {g}" for m in "ab" for g in ("logit", "loss", "loss at T = 1000")
    }
    test = data.load("digits", f"test[:{COUNT}]")
    batches = data.pipeline(test, COUNT, training=False)
    for i, name in enumerate("ab"):
        live = network(i)
        noise = evaluation.noise_robustness(live, batches, (0.0, 0.3), 2, seed=3)
        assert found["noise"][name] == noise
        ratios = evaluation.density_ratios(live, batches, (0.001, 0.1), seed=3)
        np.testing.assert_allclose(found["density"][name].values, ratios.values, rtol=1e-5)
        for row, options in ATTACKS.items():
            attacked = evaluation.adversarial_robustness(
                live, batches, (0.0, 8 / 255), seed=3, **options
            )
            assert found["adversarial"][f"{name}, {row}"] == attacked
        mask = np.pad(np.ones((4, 4)), (0, 4))  # 15/32 of 8
        hot = evaluation.energy_share(live, batches, mask, of="loss", temperature=1e3)
        share = found["energy"][f"{name}, loss at T = 1000"].value
        assert share == pytest.approx(hot.value, rel=1e-4)
        assert noise.examples == COUNT
    # The baseline by its own maps is in both tables; by the other's it is the same network.
    assert found["pixels"]["a"] == found["pixels_of_baseline"]["a"]
    maps = tfgrad.saliency.InputGradient(network(1))
    judged = evaluation.pixel_perturbation(network(0), batches, maps, (0.1, 0.5), seed=3)
    assert found["pixels_of_baseline"]["b"].values == pytest.approx(judged.values)

    with open(out / "density.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["model"], r["noise σ"]) for r in rows] == [
        *(("a", "0.001"), ("a", "0.1"), ("b", "0.001"), ("b", "0.1"))
    ]
    assert float(rows[3]["log ratio, 95 %"]) == found["density"]["b"].columns["log ratio, 95 %"][1]


def test_images_are_normalised_as_the_record_says(app, models, tmp_path):
    out, named = tmp_path / "out", f"--models=run={models}/run,bare={models}/bare.keras"
    assert app(named, *FEW, "--tests=noise", f"--out={out}") == 0
    assert set(os.listdir(out)) == {"noise.csv", "noise.png", "tables.md", "results.json"}
    test, found = data.load("digits", f"test[:{COUNT}]"), results_of(out)[1]["noise"]
    normal = tuple(np.array(s, "float32") for s in STATISTICS)
    for name, live, statistics in (("run", network(2), normal), ("bare", network(0), None)):
        batches = data.pipeline(test, 64, training=False, normalize=statistics)
        expected = evaluation.noise_robustness(live, batches, (0.0, 0.3), 2)
        assert found[name].values == pytest.approx(expected.values)

    # An earlier result is replaced; --normalize is for networks whose record says nothing.
    assert app(named, *FEW, "--tests=density", "--normalize", f"--out={out}") == 0
    assert set(os.listdir(out)) == {"density.csv", "density.png", "tables.md", "results.json"}
    found = results_of(out)[1]["density"]
    own = data.channel_statistics(data.load("digits", "train"))
    for name, live, statistics in (("run", network(2), normal), ("bare", network(0), own)):
        batches = data.pipeline(test, 64, training=False, normalize=statistics)
        expected = evaluation.density_ratios(live, batches, (0.001, 0.1))
        np.testing.assert_allclose(found[name].values, expected.values, rtol=1e-5)


@pytest.mark.long
def test_a_region_and_a_target_of_ones_own(app, models, tmp_path):
    out = tmp_path / "out"
    options = ("--tests=energy", "--corner=2,6", "--target=7", "--temperature=10", f"--out={out}")
    assert app(f"--models=a={models}/bare.keras", *FEW, *options) == 0
    test = data.load("digits", f"test[:{COUNT}]")
    mask = np.zeros((8, 8))
    mask[:2, :6] = 1
    expected = evaluation.energy_share(
        network(0), data.pipeline(test, 64, training=False), mask, target=7
    )
    found = results_of(out)[1]["energy"]
    assert found["a, logit"].value == pytest.approx(expected.value, rel=1e-5)
    assert "a, loss at T = 10" in found


@pytest.mark.long
def test_count_is_of_the_slice(app, models, tmp_path, capsys):
    out, named = tmp_path / "out", f"--models=a={models}/bare.keras"
    rest = ("--tests=noise", "--noise_sigmas=0", "--split=test[100:]", f"--out={out}")
    assert app(named, *rest, "--count=30") == 0
    assert "30 images of 'digits'" in capsys.readouterr().out
    part = data.load("digits", "test[100:130]")
    expected = evaluation.noise_robustness(
        network(0), data.pipeline(part, 64, training=False), [0], repeats=3
    )
    assert results_of(out)[1]["noise"]["a"] == expected
    assert app(named, *rest) == 0
    assert "260 images of 'digits'" in capsys.readouterr().out


def test_rows_over_other_numbers_of_images_say_so():
    kind = {"name": "n", "score": "s", "direction": "higher", "values": (1.0,)}
    rows = {n: Measurement(deviations=(0.5,), over=f"{n} images", **kind) for n in ("9", "8")}
    assert report.text("t", rows).splitlines() == [
        *("t: s, higher is better; ± over what each row says", "", "| model | s | ± over |"),
        *("|---|---|---|", "| 9 | 1 ± 0.5 | 9 images |", "| 8 | 1 ± 0.5 | 8 images |"),
    ]
    alone = report.text("t", {"a": rows["9"]})
    assert alone.startswith("t: s, higher is better; ± over 9 images\n\n| model | s |\n")


def test_points_beyond_float64_are_not_drawn(monkeypatch):
    drawn = []
    monkeypatch.setattr(report.figures, "curves", lambda path, c, **more: drawn.append((c, more)))
    kind = {"name": "n", "score": "s", "direction": "lower", "along": "σ", "points": (0.1, 1.0)}
    rows = {
        "a": Measurement(values=(1.0, np.inf), deviations=(0.5, np.inf), **kind),
        "b": Measurement(values=(np.inf, np.inf), deviations=(np.inf, np.inf), **kind),
    }
    report.draw("", "title", rows, network_tests.REFERENCES["density"])
    report.draw("", "title", {"b": rows["b"]})
    ((curves, options),) = drawn
    assert curves == {"a": {0.1: (1.0, 0.5)}}
    assert not options["log_x"] and options["horizontal"][0] == 1.0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 64, "--models: got none; expected NAME=PATH,…; try 'plain=runs/plain,score=runs"),
        (("--models=runs/a",), 64, "got runs/a; expected NAME=PATH,…; try 'a=runs/a'."),
        (("--models=a=1,a=2",), 64, "--models: got the names a, a; expected different ones"),
        (("--models=a=nothing.keras",), 65, "nothing.keras"),
        (("--models=a={}/bare.keras", "--tests=roar"), 64, "--tests: got 'roar'; expected some of"),
        (("--models=a={}/bare.keras", "--tests="), 64, "--tests: got ''; expected some of"),
        (("--models=a={}/bare.keras", "--baseline=b"), 64, "--baseline: got 'b'; expected one of"),
        (
            ("--models=a={}/bare.keras", "--baseline=a", "--tests=noise"),
            64,
            "--baseline: got 'a' without the pixels test; expected it",
        ),
        (("--models=a={}/bare.keras", "--method=gradcamm"), 64, "did you mean 'gradcam'?"),
        (("--models=a={}/bare.keras", "--noise_sigmas=much"), 64, "--noise_sigmas: got much"),
        (
            ("--models=a={}/bare.keras", "--tests=energy", "--corner=3"),
            64,
            "--corner: got 3; expected HEIGHT,WIDTH",
        ),
        (
            ("--models=a={}/bare.keras", "--corner=8,8"),
            64,
            "--corner: got 8,8; expected HEIGHT,WIDTH of a part of the 8×8 images",
        ),
        (("--models=a={}/bare.keras", "--target=best"), 64, "target: got 'best'"),
        (
            ("--models=a={}/bare.keras", "--target=10"),
            64,
            "--target: got class 10; expected 0 to 9, the classes of 'digits'",
        ),
        (("--models=a={}/bare.keras", "--temperature=0"), 64, "--temperature: got 0.0; expected"),
        (("--models=a={}/bare.keras", "--temperature=inf"), 64, "--temperature: got inf; expect"),
        (("--models=a={}/bare.keras", "--fill=nan"), 64, "--fill: got nan; expected a finite"),
        (
            ("--models=a={}/bare.keras", "--fractions=0.5,1.5"),
            64,
            "--fractions: got 0.5,1.5; expected one or more numbers from 0 to 1",
        ),
        (
            ("--models=a={}/bare.keras", "--epsilons=1/0"),
            64,
            "--epsilons: got 1/0; expected one or",
        ),
        (("--models=a={}/bare.keras", "--attack_step_size=0"), 64, "--attack_step_size: got 0.0"),
        (("--models=a={}/bare.keras", "--noise_sigmas="), 64, "--noise_sigmas: got none; expect"),
        (
            ("--models=a={}/bare.keras", "--density_sigmas=1e-12"),
            64,
            "sigmas: got 1e-12; the pixels' numbers are",
        ),
        (
            ("--models=a={0}/bare.keras,b={0}/flat.keras", "--method=gradcam"),
            65,
            "no layer puts out feature maps [batch, height, width, channels] (of series [batch, "
            "time, channels]), nor tokens [batch, h·w, channels] that are positions of such maps; "
            "Grad-CAM",
        ),
        (
            ("--models=a={}/large.keras",),
            65,
            "got 'a', which takes inputs (None, 9, 9, 1); expected (None, 8, 8, 1), the images of "
            "'digits'",
        ),
        (
            ("--models=a={}/three.keras",),
            65,
            "got 'a', which returns (None, 3); expected logits (None, 10), one for each class of "
            "'digits'",
        ),
        (
            ("--models=a={0}/bare.keras,b={0}/run", "--baseline=a", "--tests=pixels"),
            64,
            "--baseline: got 'a', whose images are normalised differently from those of 'b'",
        ),
    ],
)
def test_what_is_refused(app, models, tmp_path, capsys, arguments, code, message):
    out = tmp_path / "out"
    assert app(*FEW, *(a.format(models) for a in arguments), f"--out={out}") == code
    said = capsys.readouterr()
    assert message in said.err
    assert "1 of " not in said.out  # no test was started
    assert not os.listdir(tmp_path)
