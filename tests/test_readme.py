"""The links and commands of README and pages exist; test_pages.py runs their code."""

import collections
import importlib
import pathlib
import re

import pytest
from absl import flags

import tfgrad
from tests.helpers.app_run import in_process

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = "tfgrad/gradients"
FOLDERS = (".", "docs", "docs/results", "findings", PACKAGE, f"{PACKAGE}/intercepts")
PAGES = sorted(
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for path in (ROOT / folder).glob("*.md")
    if path.name != "CHANGELOG.md"
)
# Options of Apache Beam, which a command passes on.
PASSED_ON = {
    "map_dataset": [
        "direct_num_workers",
        "direct_running_mode",
        "flink_master",
        "parallelism",
        "runner",
    ]
}


def test_every_test_of_a_model_has_a_line_on_some_page():
    told = set()
    for page in ("density", "faithfulness"):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        told |= set(re.findall(r"^\| `(\w+)`", text, flags=re.MULTILINE))
    # Not tests of a model: a bound with a page of its own, and what tests are made of.
    others = {"transfer_bound", "compare", "saved_maps", "permuted_labels"}
    tests = {name for name in tfgrad.evaluation.__all__ if name.islower()} - others
    assert tests <= told


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        there = (ROOT / page).parent / target
        assert target.startswith("http") or there.exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^ *make ([a-z]\S*)", (ROOT / page).read_text(), flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def commands():
    """{command: flags that a page gives it, and the names of its own modules}."""
    found = collections.defaultdict(set)
    for page in PAGES:
        text = (ROOT / page).read_text().replace("\\\n", " ")
        called = re.findall(r"python -m apps\.(\w+)([^\n`|]*)", text)
        shell = re.findall(
            r"^```bash\n(.*?)^```|^    (tfgrad .*\n)", text, re.DOTALL | re.MULTILINE
        )
        for block in map("".join, shell):
            called += re.findall(r"^tfgrad ([a-z][\w-]*)([^\n#]*)", block, re.MULTILINE)
        called += re.findall(r"`tfgrad ([a-z][\w-]*)([^`]*)`", text)
        for app, arguments in called:
            found[app.replace("-", "_")] |= set(re.findall(r"--(\w+)", arguments))
    return found


@pytest.mark.parametrize("app", sorted(commands()))
def test_commands_have_the_flags_that_pages_give_them(app):
    package = (ROOT / "apps" / app).is_dir()
    module = importlib.import_module(f"apps.{app}.__main__" if package else f"apps.{app}")
    with in_process(module):
        known = {"help", *flags.FLAGS, *PASSED_ON.get(app, ())}
    given = commands()[app]
    assert {name for name in given if not {name, name.removeprefix("no")} & known} == set()


def test_pages_name_commands_as_an_installation_has_them():
    """Where a page needs a checkout, such as to write into docs/, it is named here."""
    names = {page: (ROOT / page).read_text().count("python -m apps") for page in PAGES}
    told = {"BUILD.md": 4, "README.md": 1, "docs/results/completeness.md": 1}
    assert {page: count for page, count in names.items() if count} == told


def test_pictures_are_small():
    for picture in (ROOT / "docs").rglob("*.png"):
        assert picture.stat().st_size < 300_000, picture
