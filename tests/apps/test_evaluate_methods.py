"""`python -m apps.evaluate --methods=…`: the table of methods × tests, its files, its refusals."""

import csv
import json
import os

import keras
import numpy as np
import pytest
from absl import flags

from apps.evaluate import __main__ as evaluate
from tests.apps.test_evaluate import STATISTICS, network
from tests.helpers.app_run import in_process
from tfgrad import data, saliency
from tfgrad.evaluation import Comparison, compare
from tfgrad.evaluation.map_tests.class_flip import class_flip
from tfgrad.internal import files

COUNT = 40
FEW = (f"--count={COUNT}", "--batch_size=16", "--images=6", "--fractions=0.1,0.5")


@pytest.fixture(scope="module")
def app():
    with in_process(evaluate) as run:
        yield run


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A bare file, a run whose images are normalised, and a network without feature maps."""
    directory = tmp_path_factory.mktemp("models")
    network(0).save(directory / "bare.keras")
    (directory / "run").mkdir()
    network(2).save(directory / "run" / "network.keras")
    files.write_json(str(directory / "run" / "results.json"), {"normalize": STATISTICS})
    flat = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    keras.Sequential(flat).save(directory / "flat.keras")
    return directory


def comparisons(out):
    record = json.loads((out / "results.json").read_text())
    return record, {name: Comparison.from_json(one) for name, one in record["models"].items()}


@pytest.mark.long
def test_methods_by_tests_of_one_model(app, models, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    asked = ("--methods=input_times_gradient,random", "--tests=pixels,class_flip,completeness")
    flip = ("--from=1", "--to=7", "--fill=0.25", "--seed=3", "--remove=most", "--score=accuracy")
    assert app(f"--models=a={models}/bare.keras", *FEW, *asked, *flip, f"--out={out}") == 0
    printed = capsys.readouterr().out
    files = {"tables.md", "results.json", "methods.png", "methods.csv", "pixels.png"}
    assert set(os.listdir(out)) == files | {"pixels.csv", "class_flip.csv", "completeness.csv"}
    assert os.listdir(out.parent) == ["out"]
    assert all((out / f).read_bytes().startswith(b"\x89PNG") for f in ("methods.png", "pixels.png"))
    assert "a: 1 of 6: pixels of random\n" in printed
    assert "a: 6 of 6: completeness of input_times_gradient, about 0:" in printed

    batches = data.pipeline(data.load("digits", f"test[:{COUNT}]"), 16, training=False)
    removal = {"fractions": (0.1, 0.5), "fill": 0.25}
    expected = compare(
        network(0),
        batches,
        ["input_times_gradient"],
        ["pixels", "class_flip", "completeness"],
        images=6,
        options={
            "pixels": removal | {"remove": "most", "score": "accuracy"},
            "class_flip": {"source": 1, "to": 7, "fill": 0.25},
        },
        seed=3,
    )
    record, found = comparisons(out)
    assert record["flags"]["seed"] == 3 and "tfgrad" in record["versions"]
    assert found["a"].methods == expected.methods == ("input_times_gradient", "random")
    assert found["a"].tests == expected.tests and set(found["a"].costs) == set(expected.methods)
    for test, row in expected.measurements.items():
        for method, one in row.items():
            got = found["a"].measurements[test][method]
            assert got.values == pytest.approx(one.values, rel=1e-4, abs=1e-6), (test, method)
    text = (out / "tables.md").read_text()
    assert text.strip() in printed and text.startswith("Maps of a\n\n| method | pixels (%) ↓ |")
    assert "| fraction of pixels → | 0.1 | 0.5 |\n" in text

    with open(out / "methods.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (2 + 1 + 1) and rows[0]["model"] == "a"
    with open(out / "pixels.csv", newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["method"] == "input_times_gradient"


@pytest.mark.slow
def test_several_models_and_a_method_that_fails(app, models, tmp_path, capsys):
    """A failure is in the table, and the exit code is 0; black is black before normalisation."""
    out = tmp_path / "out"
    named = f"--models=flat={models}/flat.keras,run={models}/run"
    asked = ("--methods=gradcam,input_gradient", "--tests=class_flip,pixels")
    assert app(named, *FEW, *asked, f"--out={out}") == 0
    _, found = comparisons(out)
    assert set(found["flat"].failures["class_flip"]) == {"gradcam"} and not found["run"].failures
    printed = capsys.readouterr().out
    assert "| gradcam | failed | failed |  |  |" in printed and "run: 1 of 6:" in printed
    assert "- failed, class_flip of gradcam, pixels of gradcam: model" in printed
    assert "| flat, input_gradient |" in printed and "| run, gradcam |" in printed

    normal = tuple(np.array(s, "float32") for s in STATISTICS)
    test = data.load("digits", f"test[:{COUNT}]")
    batches = data.pipeline(test, 16, training=False, normalize=normal)
    black = -STATISTICS[0][0] / STATISTICS[1][0]
    model = network(2)
    live = class_flip(model, batches, saliency.InputGradient(model), fill=black)
    assert found["run"].measurements["class_flip"]["input_gradient"].values == pytest.approx(
        live.values, rel=1e-4
    )


@pytest.mark.long
def test_a_result_of_networks_is_replaced_by_one_of_maps(app, models, tmp_path):
    out, named = tmp_path / "out", f"--models=a={models}/flat.keras"
    assert app(named, *FEW, "--tests=noise", "--noise_sigmas=0", f"--out={out}") == 0
    tests = ("--tests=randomisation", "--order=independent", "--draws=2")
    options = ("--methods=input_gradient", *tests)
    assert app(named, *FEW, *options, f"--out={out}") == 0
    assert not (out / "noise.csv").exists()
    found = comparisons(out)[1]["a"].measurements["randomisation"]["input_gradient"]
    assert found.name == "independent randomisation" and found.examples == 6
    assert " and 2 draws of the weights " in found.over


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--methods=",), 64, "--methods: got none; expected one or more"),
        (("--methods=gradcamm",), 64, "did you mean 'gradcam'?"),
        (("--methods=fullgrad", "--tests=noise"), 64, "'noise' is a test of networks; try without"),
        (
            ("--methods=fullgrad", "--tests=roar"),
            64,
            "--tests: got 'roar'; expected some of pixels",
        ),
        (("--tests=class_flip",), 64, "'class_flip' is a test of maps; try with --methods"),
        (
            ("--methods=fullgrad", "--baseline=a"),
            64,
            "--baseline: got 'a' with --methods; expected one of the two, because it belongs to "
            "tests of networks",
        ),
        (("--methods=fullgrad", "--fractions=2"), 64, "--fractions: got 2; expected one or more"),
        (("--methods=fullgrad", "--fill=inf"), 64, "--fill: got inf; expected a finite number"),
        (
            ("--methods=fullgrad", "--tests=class_flip", "--to=8"),
            64,
            "--from, --to: got 8 twice; expected different classes",
        ),
        (
            ("--methods=fullgrad", "--tests=class_flip", "--from=12"),
            64,
            "--from: got class 12; expected one of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], the classes of "
            "the 40 images of 'digits'",
        ),
        (
            ("--methods=fullgrad", "--tests=class_flip", "--to=10"),
            64,
            "--to: got class 10; expected 0 to 9, the classes of 'digits'",
        ),
        (
            ("--methods=gradcam", "--tests=completeness"),
            65,
            "expected one that a test can evaluate; none has a result: model",
        ),
    ],
)
def test_what_is_refused(app, models, tmp_path, capsys, arguments, code, message):
    out, named = tmp_path / "out", f"--models=a={models}/flat.keras"
    assert app(named, *FEW, *arguments, f"--out={out}") == code
    said = capsys.readouterr()
    assert message in said.err and not os.listdir(tmp_path)
    assert code == 65 or "1 of " not in said.out  # no test was started


def test_the_help_is_a_manual_page(app):
    for test in (*evaluate.network_tests.TESTS, *evaluate.map_tests.TESTS):
        assert f"\n  {test} " in evaluate.__doc__, test
    listed = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(evaluate)}
    assert {"models", "methods", "from", "noise_sigmas", "fractions", "out"} <= listed
