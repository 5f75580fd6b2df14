"""The other apps, each run as a user runs it."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from apps import export, quickstart
from apps.benchmark import __main__ as benchmark
from apps.benchmark import timing, training_steps
from tests.helpers.app_run import in_process

ROOT = pathlib.Path(__file__).parents[2]


def run(app, *arguments, code=0):
    """Standard output of an app that ends with 0, or standard error of one that fails."""
    command = [sys.executable, "-m", f"apps.{app}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "plain"
    flags = ("--width=0.25", "--epochs=2", "--normalize", "--noise=0,0.2", "--progress=none")
    run("train", *flags, f"--work_dir={directory}")
    return directory


@pytest.mark.long
def test_quickstart(tmp_path, capsys):
    with in_process(quickstart) as run_quickstart:
        asked = ("--epochs=2", f"--work_dir={tmp_path}/q", f"--to={tmp_path}/served")
        assert run_quickstart(*asked) == 0
    out = capsys.readouterr().out
    assert "| gradient norm, λ = 0.03 |" in out
    assert {p.name for p in (tmp_path / "q").iterdir()} >= {
        "explained.png",
        "noise.png",
        "noise.md",
    }
    assert (tmp_path / "served/1/saved_model.pb").exists()


UNDER_ANOTHER_NAME = """
import importlib, runpy, sys
sys.modules["apps"] = None  # An absolute import of it would fail.
for name in sys.argv[1:]:
    importlib.import_module(f"tfgrad_apps.{name}")
sys.argv = ["distill.py", "--help"]
runpy.run_module("tfgrad_apps.distill", run_name="__main__", alter_sys=True)
"""


@pytest.mark.long
def test_the_package_may_have_another_name(tmp_path):
    """Every command can be imported, and its manual page names the commands as they are called."""
    shutil.copytree(ROOT / "apps", tmp_path / "tfgrad_apps")
    packages = [path.parent.name for path in (ROOT / "apps").glob("*/__main__.py")]
    modules = [path.stem for path in (ROOT / "apps").glob("[a-z]*.py") if path.stem != "distill"]
    names = [*modules, *(f"{package}.__main__" for package in packages)]
    assert len(names) == 15
    done = subprocess.run(
        [sys.executable, "-c", UNDER_ANOTHER_NAME, *names],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "python -m tfgrad_apps.distill" in done.stdout
    assert re.findall(r"\bapps\.\w+", done.stdout) == []


@pytest.mark.slow
def test_export_of_a_run_takes_pixels(trained, tmp_path):
    """The normalisation is inside: the served model classifies raw digits as the run reported."""
    out = run("export", f"--work_dir={trained}", f"--to={tmp_path}/served")
    assert "serving_default: image -> " in out
    parts = "tracing fullgrad (2 of 4)", "writing the SavedModel", "loading it again, and comparing"
    assert sorted(parts, key=out.index) == [*parts]
    from tfgrad import data

    test = data.load("digits", "test")
    served = tf.saved_model.load(str(tmp_path / "served/1"))
    answer = served.signatures["serving_default"](image=tf.constant(test.images))
    accuracy = np.mean(answer["logits"].numpy().argmax(-1) == test.labels)
    results = json.loads((trained / "results.json").read_text())
    assert results["noise"][0]["accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 64, "--work_dir, --model: got both or none; expected exactly one"),
        (("--model=nothing.keras", "--to=x"), 65, "--model: 'nothing.keras' cannot be loaded"),
        (("--work_dir=nowhere", "--to=x"), 65, "holds no finished run"),
    ],
)
def test_export_refuses(arguments, code, message, capsys):
    with in_process(export) as run_export:
        assert run_export(*arguments) == code
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_compare(trained, tmp_path):
    out = run("compare", f"--work_dirs={trained}", f"--out={tmp_path}/noise")
    assert "| plain (relu) |" in out
    assert (tmp_path / "noise.md").read_text().strip() in out
    assert (tmp_path / "noise.png").stat().st_size > 1000
    (record,) = json.loads((tmp_path / "noise.json").read_text())
    assert record["flags"]["width"] == 0.25
    message = run("compare", f"--work_dirs={tmp_path}", f"--out={tmp_path}/x", code=65)
    assert "holds no finished run" in message


@pytest.mark.slow
def test_benchmark(tmp_path):
    small = ("--network=vgg4", "--width=0.1", "--side=8", "--batch_size=4", "--rounds=1")
    run("benchmark", *small, "--fit_steps=2", f"--out={tmp_path}/cost.json")
    result = json.loads((tmp_path / "cost.json").read_text())
    added = "bias + attention, over matching"
    assert set(result["steps"]) == {*training_steps.VARIANTS, added}
    assert all(row["median_ms"] > 0 for row in result["steps"].values())
    assert all(row["peak_mb"] > 100 for name, row in result["steps"].items() if name != added)


@pytest.mark.slow
def test_benchmark_of_maps(tmp_path):
    small = ("--suite=maps", "--models=vit", "--side=32", "--batch_size=2", "--rounds=1")
    out = run("benchmark", *small, "--samples=2", f"--out={tmp_path}/maps.json")
    result = json.loads((tmp_path / "maps.json").read_text())
    steps, peaks = (result["maps"]["vit"][key] for key in ("steps", "peak_mb"))
    assert {name: row["bound"] for name, row in steps.items()} == {
        "input-gradient": None,
        "FullGrad": 2.0,
        "InputGradient of a class": None,
        "of a contrast": 1.05,
        "of a scalar": 1.05,
        "exported input-gradient": None,
        "exported FullGrad": 2.0,
    }
    assert all(row["median_ms"] > 0 and row["ratio"] > 0 for row in steps.values())
    assert all(peaks[method]["2"] > 100 for method in ("smoothgrad", "smooth_fullgrad"))
    assert "| vit | exported FullGrad | " in out


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["density", "pixels"])
def test_benchmark_of_what_is_repeated(tmp_path, suite):
    small = ("--network=vgg4", "--width=0.1", "--side=8", "--batch_size=4", "--rounds=1")
    out = run("benchmark", f"--suite={suite}", *small, f"--out={tmp_path}/cost.json")
    result = json.loads((tmp_path / "cost.json").read_text())
    bounds = {row["bound"] for row in result[suite].values()}
    assert bounds == {None, 1.1 if suite == "density" else 1.15}
    assert all(row["median_ms"] > 0 for row in result[suite].values())
    assert f"| {'gradient ascent' if suite == 'density' else 'pixel perturbation, 100'}" in out
    assert suite == "density" or set(result["peak_mb"]) == {"5", "25", "100"}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--models=vit,vgg16", "--models: got 'vgg16'; did you mean 'vgg16_bn'? Expected one of "),
        ("--memory_of=vit:smoothgrad:many", "such as vit:smoothgrad:50"),
    ],
)
def test_benchmark_refuses(argument, message, capsys):
    with in_process(benchmark) as run_benchmark:
        assert run_benchmark(argument) == 64
    assert message in capsys.readouterr().err


def test_ratios_are_taken_within_a_round():
    row = timing.row([2.0, 4.0, 20.0], [1.0, 2.0, 8.0], bound=2.2)
    assert row == {"median_ms": 4000, "ratio": 2, "ratio_quartiles": [2, 2.25], "bound": 2.2}


def test_rounds_turn_the_order(capsys):
    called: list[str] = []
    functions = {name: lambda name=name: called.append(name) for name in "abc"}
    times = timing.interleaved(functions, 3, "letters")
    assert "".join(called) == "abc" + "bca" + "cab"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3, "c": 3}
    assert capsys.readouterr().out.endswith("letters: round 3 of 3\n")


def test_every_figure_is_printed_as_soon_as_it_exists(capsys):
    printed: list[str] = []

    def function(seconds):
        printed.append(capsys.readouterr().out)
        return seconds

    functions = {"plain": lambda: function(0.002), "both": lambda: function(0.005)}
    timing.compiled(functions, "plain", timer=lambda one: one())
    printed.append(capsys.readouterr().out)
    assert printed[0] == "compiling plain (1 of 2)\n" and printed[1] == printed[3] == ""
    after_plain, after_both = printed[2].splitlines(), printed[4].splitlines()
    assert after_plain[0].endswith("s; one call after that 2.0 ms")
    assert after_plain[1] == "compiling both (2 of 2)"
    assert after_both[0].endswith("s; one call after that 5.0 ms, 2.50 × plain")


def test_a_process_that_fails_costs_only_its_own_figure(capsys, monkeypatch):
    monkeypatch.setattr(timing, "__package__", "no_such_package_of_ours")
    assert timing.memory("plain") is None
    out = capsys.readouterr().out
    assert out.startswith("peak memory of plain: unknown (exit code 1: ")
    assert "No module named no_such_package_of_ours" in out


@pytest.mark.slow
def test_completeness_goes_on_where_it_stopped(tmp_path):
    out = tmp_path / "completeness"
    first = run("completeness", f"--out={out}", "--only=LSTM classifier")
    assert "1 of 1: LSTM classifier: " in first
    second = run("completeness", f"--out={out}", "--only=LSTM classifier,nested")
    assert "1 of 1: nested: " in second
    rows = json.loads((tmp_path / "completeness.json").read_text())["architectures"]
    assert list(rows) == ["LSTM classifier", "nested"]
    assert all(0 <= row["error"] < 1e-5 and row["terms"] > 2 for row in rows.values())
    assert "| nested | 747 | " in (tmp_path / "completeness.md").read_text()
    error = run("completeness", f"--out={out}", "--only=VGG17", code=64)
    assert "--only: got 'VGG17'; expected some of " in error
