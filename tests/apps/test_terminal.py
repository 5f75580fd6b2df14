"""Tables in terminals and pipes, and counts that are overwritten."""

import itertools
import os
import sys
from unittest import mock

import pytest

from apps.common import progress, terminal
from tests.helpers import terminals
from tfgrad.evaluation.measurement import Measurement, table_row

METHODS = ("fullgrad", "input_gradient", "random")


def table(rows, columns):
    titles = ["method", *(f"test {c}" for c in range(columns))]
    lines = [[f"row {r}", *(f"{r}.{c} ± 0.1" for c in range(columns))] for r in range(rows)]
    return [titles, *lines]


def text(cells):
    first, *rest = map(table_row, cells)
    return "\n".join([first, "|---" * len(cells[0]) + "|", *rest])


def read(shown):
    """{(row, column): cell} of all tables in a text, whichever way they are turned."""
    found, titles = {}, None
    for line in shown.split("\n"):
        if not line.startswith("|"):
            titles = None
        elif not line.startswith("|-"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if titles is None:
                titles = cells
            else:
                pairs = zip(titles[1:], cells[1:], strict=True)
                found |= {frozenset((cells[0], title)): cell for title, cell in pairs}
    return found


@pytest.mark.parametrize(("rows", "columns"), [(2, 25), (3, 4), (12, 25), (30, 3), (1, 1)])
@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_is_wider_and_no_cell_is_lost(rows, columns, width):
    cells = table(rows, columns)
    shown = terminal.fitted(f"before\n\n{text(cells)}\n\nafter", width)
    assert max(map(len, shown.split("\n"))) <= width
    assert shown.startswith("before\n\n|") and shown.endswith("|\n\nafter")
    expected = {
        frozenset((row[0], title)): cell
        for row in cells[1:]
        for title, cell in zip(cells[0][1:], row[1:], strict=True)
    }
    assert read(shown) == expected


def test_a_few_rows_of_many_columns_are_transposed():
    lines = terminal.fitted(text(table(2, 25)), 80).split("\n")
    assert len(lines) == 1 + 1 + 25
    assert lines[0].split() == ["|", "method", "|", "row", "0", "|", "row", "1", "|"]


def test_what_fits_is_aligned_only():
    lines = terminal.fitted("| a | bbbb |\n|---|---|\n| cc | d |", 80).split("\n")
    assert lines == ["| a  | bbbb |", "|----|------|", "| cc | d    |"]


def test_wide_characters_take_two_columns():
    lines = terminal.fitted("| a | b |\n|---|---|\n| 猫 | d |\n| ab | e |", 80).split("\n")
    assert lines == ["| a  | b |", "|----|---|", "| 猫 | d |", "| ab | e |"]


def test_what_is_no_table_stays():
    for other in ("| one line", "| a | b |\n|---|---|\n| c |", "plain\n", ""):
        assert terminal.fitted(other, 10) == other


def test_bars_in_cells_are_no_borders():
    shown = terminal.fitted(text([["a", "b|c"], ["d", "e"]]), 80)
    assert shown.split("\n")[0] == "| a | b\\|c |"


def test_a_pipe_gets_the_whole_table_and_a_terminal_a_folded_one(capsys):
    columns = {f"column {i}": (0.5,) for i in range(25)}
    measured = Measurement("test", "score", "higher", (1.0,), (0.1,), columns=columns)
    whole = Measurement.markdown({"model": measured})
    terminal.show(whole)
    assert capsys.readouterr().out == whole + "\n"
    size = os.terminal_size((80, 24))
    with (
        mock.patch.object(sys.stdout, "isatty", lambda: True),
        mock.patch("shutil.get_terminal_size", lambda: size),
    ):
        terminal.show(whole)
    lines = capsys.readouterr().out.split("\n")
    assert max(map(len, lines)) <= 80 < max(map(len, whole.split("\n")))
    assert sum("column" in line for line in lines) == 25


def test_counts_in_pipes_are_lines(capsys, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    counter = progress.Counter("steps: round", 12)
    for done in range(12):
        counter.done(done + 1)
    lines = ["steps: round 5 of 12", "steps: round 10 of 12", "steps: round 12 of 12"]
    assert capsys.readouterr().out == "\n".join(lines) + "\n"


def test_counts_in_terminals_are_overwritten_and_remain_at_the_end(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("tfgrad.internal.live_line.time.monotonic", lambda: float(next(clock)))
    with terminals.terminal() as shown:
        counter = progress.Counter("steps: round", 12)
        for done in range(12):
            counter.done(done + 1)
        counts = [f"{done} of 12" for done in range(1, 13)]
        *drawn, last = dict.fromkeys(line for line in shown.lines() if line)
    assert [line.split("━ ")[-1].split("╺")[-1].lstrip("━ ") for line in drawn] == counts
    assert last == "steps: round 12 of 12"
