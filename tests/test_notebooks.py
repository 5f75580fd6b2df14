"""The notebooks are kept as they were executed, use what exists, and run from scratch."""

import ast
import pathlib
import re
import subprocess
import sys

import nbformat
import pytest

from tests.test_pages import unknown_names
from tools import notebooks

ROOT = pathlib.Path(__file__).parent.parent
NAMES = notebooks.names()


@pytest.fixture(scope="module", params=NAMES)
def notebook(request):
    return notebooks.read(request.param)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shows(source):
    """Whether a cell writes something or ends with a value, assertions of numpy apart."""
    tree = ast.parse(source)
    last = tree.body[-1]
    if isinstance(last, ast.Expr) and "assert" not in ast.unparse(last.value):
        return True
    return any(
        isinstance(node, ast.Call) and ast.unparse(node.func) == "print" for node in ast.walk(tree)
    )


def test_it_is_kept_as_it_was_executed(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebooks.problems(notebook) == []
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert bool(cell.outputs) == shows(cell.source), cell.id


def test_what_it_uses_exists(notebook):
    assert unknown_names("\n".join(cell.source for cell in code_cells(notebook))) == set()


def test_its_last_cell_checks_numbers(notebook):
    checks = [
        n for n in ast.walk(ast.parse(notebook.cells[-1].source)) if isinstance(n, ast.Assert)
    ]
    assert len(checks) >= 3
    for check in checks:  # a bare constant or string would hold by itself
        assert not isinstance(check.test, ast.Constant | ast.Tuple | ast.JoinedStr)


def test_its_links_lead_somewhere(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("https://") or (notebooks.FOLDER / link).exists(), link


def test_the_page_lists_all_of_them():
    listed = re.findall(
        r"\(\.\./notebooks/(\w+)\.ipynb\)", (ROOT / "docs/notebooks.md").read_text()
    )
    assert sorted(listed) == NAMES and len(NAMES) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_scratch(name):
    """In a kernel and a directory of its own; the assertions of its cells are among what runs."""
    command = [sys.executable, "-m", "tools.notebooks", "--check", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(f"{name}: ")
