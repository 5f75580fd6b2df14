"""The README's code runs as it stands, and its links and commands exist."""

import pathlib
import pkgutil
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:.*:tfgrad.errors.SecondOrderWarning")
def test_ten_lines(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["path"].endswith("1")
    assert (tmp_path / "saved_models/digits/1/saved_model.pb").exists()


def test_the_page_on_maps_runs():
    """Its first two blocks, on a network and images of ours."""
    page = (ROOT / "docs" / "saliency.md").read_text()
    namespace = {
        "tfgrad": tfgrad,
        "network": tfgrad.models.vgg(4, (8, 8, 1), classes=10, width=0.1),
        "x": np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype("float32"),
    }
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(code, "saliency.md", "exec"), namespace)
    assert namespace["maps"].shape == (2, 8, 8)
    names = set(re.findall(r"^\| `(\w+)`", page, flags=re.MULTILINE))
    names |= {"smoothgrad_squared", "layercam", "scorecam"}  # second and third in their rows
    assert names == set(tfgrad.saliency.METHODS)


def test_the_page_on_teachers_runs(capsys):
    """All of its blocks, on networks and images of ours."""
    page = (ROOT / "docs" / "transfer.md").read_text()
    random = np.random.default_rng(0)
    shape = (8, 8, 1)
    namespace = {
        "keras": keras,
        "tfgrad": tfgrad,
        "student": tfgrad.models.vgg(4, shape, classes=10, width=0.05),
        "teacher": tfgrad.models.vgg(4, shape, classes=10, width=0.1),
        "student_for_flowers": tfgrad.models.vgg(4, shape, classes=5, width=0.05),
        "x": random.uniform(size=(6, *shape)).astype("float32"),
        "y": np.arange(6),
        "flowers": random.uniform(size=(5, *shape)).astype("float32"),
        "labels": np.arange(5),
    }
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(code, "transfer.md", "exec"), namespace)
    assert namespace["network"].output_shape == (None, 5)
    assert "learns from" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*trace of the batch:tfgrad.errors.SecondOrderWarning")
def test_the_page_on_densities_runs(tmp_path, monkeypatch, capsys):
    """All of its blocks, on networks and images of ours."""
    page = (ROOT / "docs" / "density.md").read_text()
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    namespace = {
        "keras": keras,
        "np": np,
        "tf": tf,
        "tfgrad": tfgrad,
        "network": tfgrad.models.vgg(4, (8, 8, 1), 10, width=0.05, activation="softplus"),
        "judge": tfgrad.models.vgg(4, (8, 8, 1), 10, width=0.05),
        "x": random.uniform(size=(20, 8, 8, 1)).astype("float32"),
        "y": np.arange(20) % 10,
    }
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(code, "density.md", "exec"), namespace)
    assert (tmp_path / "pixels.png").exists()
    assert "| random |" in capsys.readouterr().out


def test_every_test_of_a_model_has_a_line_on_some_page():
    told = set()
    for page in ("density", "faithfulness"):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        told |= set(re.findall(r"^\| `(\w+)`", text, flags=re.MULTILINE))
    # Not tests of a model: a bound with a page of its own, and what tests are made of.
    others = {"transfer_bound", "compare", "saved_maps", "permuted_labels"}
    tests = {name for name in tfgrad.evaluation.__all__ if name.islower()} - others
    assert tests <= told


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "BUILD.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "findings/README.md"),
        *("tfgrad/gradients/README.md", "tfgrad/gradients/intercepts/README.md"),
        *("docs/penalties.md", "docs/saliency.md", "docs/transfer.md"),
        *("docs/density.md", "docs/fooling.md", "docs/faithfulness.md"),
        *("docs/results/density.md", "docs/results/faithfulness.md"),
    ],
)
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        there = (ROOT / page).parent / target
        assert target.startswith("http") or there.exists(), target


def test_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    apps = [info.name for info in pkgutil.iter_modules([str(ROOT / "apps")])]
    for app in re.findall(r"python -m apps\.(\w+)", README):
        assert app in apps, app


def test_pictures_are_small():
    for picture in (ROOT / "docs").rglob("*.png"):
        assert picture.stat().st_size < 300_000, picture
