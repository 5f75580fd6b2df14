"""The program `tfgrad`: its commands, their manual pages, completion, and the wheel."""

import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

from apps import __main__ as program
from apps import shell_completion
from apps.common import invocation

ROOT = pathlib.Path(__file__).parents[2]


def run(capsys, monkeypatch, *arguments):
    """(exit code, standard output, standard error) of the program in this process."""
    monkeypatch.setattr(invocation, "_called_by_program", False)
    monkeypatch.setattr(sys, "argv", ["tfgrad", *arguments])
    code = 0
    try:
        program.main()
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_help_lists_every_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for asked in ((), ("--help",), ("help",)):
        code, out, _ = run(capsys, monkeypatch, *asked)
        assert code == 0
        listed = dict(re.findall(r"^  (\S+) +(.+)$", out, re.MULTILINE))
        packages = [path.parent.name for path in (ROOT / "apps").glob("*/__main__.py")]
        modules = [p.stem for p in (ROOT / "apps").glob("[a-z]*.py") if p.stem[0] != "_"]
        names = {*packages, *modules} - {"shell_completion"}
        assert set(listed) == {name.replace("_", "-") for name in names}
    assert listed["train"] == "Train a classifier with penalties on its gradients."
    assert "apps." not in out


def test_lines_fit_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = run(capsys, monkeypatch)
    commands = out.partition("Commands:\n")[2]
    assert commands and max(map(len, commands.splitlines())) <= 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "unknown command 'trian'; did you mean 'train'?"),
        (("common",), "unknown command 'common'; "),
        (("--model=x",), "unexpected flag '--model=x' before a command"),
        (("--print-completion=fish",), "got 'fish'; expected one of bash, zsh, tcsh"),
    ],
)
def test_refusals(capsys, monkeypatch, arguments, message):
    code, out, err = run(capsys, monkeypatch, *arguments)
    assert (code, out) == (64, "")
    assert err.startswith("tfgrad: ") and message in err


def test_commands_are_named_as_they_are_called(monkeypatch):
    page = "    python -m apps.map_dataset --x\nwritten by apps.export, a run of apps.train."
    assert invocation.in_text(page) == page
    monkeypatch.setattr(invocation, "PACKAGE", "tfgrad_apps")
    assert invocation.in_text(page).startswith("    python -m tfgrad_apps.map_dataset --x\n")
    monkeypatch.setattr(invocation, "_called_by_program", True)
    expected = "    tfgrad map-dataset --x\nwritten by tfgrad export, a run of tfgrad train."
    assert invocation.in_text(page) == expected
    assert invocation.words("reproduce") == ["tfgrad", "reproduce"]


def test_completion_knows_the_flags_and_values_of_each_command():
    """The flags of two commands that define the same ones are told apart."""
    lines = {"train": "Train.", "explain": "Explain 100 % of it."}
    script = shell_completion.script(lines, "bash")
    options = dict(re.findall(r"_shtab_tfgrad_(\w+)_option_strings=\((.*?)\)", script))
    assert "--gradient_norm" in options["train"] and "--top_maps" in options["explain"]
    assert "--top_maps" not in options["train"] and "--norandom_weights" in options["explain"]
    assert re.search(r"explain___scale_choices=\([^)]*\bcontrast\b", script)


@pytest.mark.long
def test_a_command_runs_under_the_program():
    """In a process of its own, as users run it."""
    command = [sys.executable, "-m", "apps", "map-dataset", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "    tfgrad map-dataset --model=" in done.stdout
    assert not re.findall(r"\bapps\.\w+", done.stdout)


@pytest.mark.slow
def test_the_wheel_holds_the_commands(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        points = next(name for name in held if name.endswith("entry_points.txt"))
        assert "tfgrad = tfgrad_apps.__main__:main" in archive.read(points).decode()
    expected = {f"tfgrad_{p.relative_to(ROOT)}" for p in (ROOT / "apps").rglob("*.py")}
    assert expected <= held and not any(name.startswith(("apps/", "tests/")) for name in held)


def test_manual_pages_lead_nowhere_that_an_installation_lacks():
    """`--help` is read without a checkout, too."""
    for name, page in program.manual_pages().items():
        assert not re.search(r"docs/\w+\.md|README|BUILD\.md", page), name
