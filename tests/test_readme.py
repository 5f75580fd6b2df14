"""The links and commands of README and pages exist; test_pages.py runs their code."""

import pathlib
import pkgutil
import re

import pytest

import tfgrad

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


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
