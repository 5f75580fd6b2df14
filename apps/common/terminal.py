"""Tables in a terminal: aligned, and folded to its width where they are wider.

rich measures the cells; its own tables shorten or fold cells that do not fit, where these are
transposed or shown in groups of columns.
"""

import re
import shutil
import sys
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

Rows = Sequence[Sequence[str]]

_BAR = re.compile(r"(?<!\\)\|")


def show(text: str) -> None:
    """Print text; the Markdown tables in it are fitted where standard output is a terminal.

    Pipes and files receive the text as it is.
    """
    if sys.stdout.isatty():
        text = fitted(text, shutil.get_terminal_size().columns)
    print(text, flush=True)


def fitted(text: str, width: int) -> str:
    """The text with its Markdown tables aligned, and those folded that are wider than a line.

    A table that is too wide is transposed if it fits then. Otherwise its columns are shown in
    groups, each of which repeats the first column. No cell is left out or shortened.

    Args:
        text: Text in which every line of a table begins with a bar.
        width: Number of characters in a line.
    """
    shown, table = [], []
    for line in [*text.split("\n"), ""]:
        if line.startswith("|"):
            table.append(line)
            continue
        shown += _table(table, width) if len(table) > 1 else table
        table = []
        shown.append(line)
    return "\n".join(shown[:-1])


def _table(lines: Sequence[str], width: int) -> list[str]:
    """A table, its second line being the rule below the titles."""
    rows = [_cells(line) for line in [lines[0], *lines[2:]]]
    if len({len(row) for row in rows}) > 1:
        return list(lines)
    if _width(rows) <= width:
        return _aligned(rows)
    turned = [list(column) for column in zip(*rows, strict=True)]
    if _width(turned) <= width:
        return _aligned(turned)
    shown: list[str] = []
    for group in _groups(rows, width):
        shown += ["", *_aligned(group)] if shown else _aligned(group)
    return shown


def _groups(rows: Rows, width: int) -> list[Rows]:
    """As many columns in each group as fit beside the first one, and at least one."""
    groups: list[list[int]] = []
    for column in range(1, len(rows[0])):
        wider = [*groups[-1], column] if groups else [0, column]
        if groups and _width(_columns(rows, wider)) <= width:
            groups[-1] = wider
        else:
            groups.append([0, column])
    return [_columns(rows, group) for group in groups]


def _columns(rows: Rows, which: Sequence[int]) -> Rows:
    return [[row[column] for column in which] for row in rows]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in _BAR.split(line.strip())[1:-1]]


def _widths(rows: Rows) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(*rows, strict=True)]


def _width(rows: Rows) -> int:
    return sum(_widths(rows)) + 3 * len(rows[0]) + 1


def _aligned(rows: Rows) -> list[str]:
    widths = _widths(rows)
    padded = ["| " + " | ".join(map(set_cell_size, row, widths)) + " |" for row in rows]
    return [padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]]
