"""What a report consists of: sections of sentences, tables and pictures, with their numbers."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tfgrad.figures.result_pages import HtmlTable

_BAR = re.compile(r"(?<!\\)\|")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        figure: A figure of matplotlib.
        label: What it shows, for those who cannot see it.
    """

    figure: Any
    label: str


Block = str | HtmlTable | Picture


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        key: Its name in report.json, and in addresses within the page.
        title: Its heading.
        how: A sentence: how it was measured, and on how many images.
        blocks: Sentences, tables and pictures, in order.
        numbers: What report.json holds of it.
    """

    key: str
    title: str
    how: str
    blocks: Sequence[Block]
    numbers: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        title: Its heading.
        summary: (what, its value) pairs at its head.
        sections: Its parts.
    """

    title: str
    summary: Sequence[tuple[str, str]]
    sections: Sequence[Section]


def from_markdown(text: str) -> HtmlTable:
    """The first table of a text in Markdown, as results write them, with the notes of its list."""
    lines = text.split("\n")
    rows = [_cells(line) for line in lines if line.startswith("|")]
    notes = [line[2:] for line in lines if line.startswith("- ")]
    headings, body = rows[0], rows[2:]
    strong = frozenset(
        (i, j) for i, row in enumerate(body) for j, cell in enumerate(row) if "**" in cell
    )
    return HtmlTable(headings, [[c.replace("**", "") for c in r] for r in body], notes, strong)


def facts(pairs: Mapping[str, Any] | Sequence[tuple[str, Any]]) -> HtmlTable:
    """A table of two columns: what, and its value."""
    listed = list(pairs.items()) if isinstance(pairs, Mapping) else list(pairs)
    return HtmlTable(["", ""], [[str(what), _shown(value)] for what, value in listed])


def turned(table: HtmlTable) -> HtmlTable:
    """A table with its rows as columns."""
    headings, *rows = map(list, zip(table.headings, *table.rows, strict=True))
    strong = frozenset((j - 1, i + 1) for i, j in table.strong if j > 0)
    return HtmlTable(headings, rows, table.notes, strong)


def _cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in _BAR.split(line.strip())[1:-1]]


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
