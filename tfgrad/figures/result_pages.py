"""Results in HTML, for notebooks: pictures, classes and tables; needs no matplotlib."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence

import numpy as np

from tfgrad.figures import explained_inputs as kinds
from tfgrad.figures.colouring import scaled, stretched
from tfgrad.figures.explained_inputs import ExplainedInput
from tfgrad.figures.inline import image_tag, series_tag, tinted
from tfgrad.figures.token_page import Html, tokens_html
from tfgrad.figures.token_texts import readable

_FEATURES = 10  # of a table, the most salient ones
_STYLE = """<style>
.tfgrad-result h3, .tfgrad-result h4 { font-size: 1em; margin: .8em 0 .2em; }
.tfgrad-result .pictures { display: flex; flex-wrap: wrap; gap: .6em; align-items: flex-start; }
.tfgrad-result figure { margin: 0; }
.tfgrad-result figcaption { font-size: .8em; opacity: .75; }
.tfgrad-result img { image-rendering: pixelated; display: block; }
.tfgrad-result table { border-collapse: collapse; font-size: .85em; margin: 0; }
.tfgrad-result th, .tfgrad-result td { padding: .1em .6em; text-align: right; }
.tfgrad-result th:first-child, .tfgrad-result td:first-child { text-align: left; }
.tfgrad-result p { font-size: .85em; margin: .3em 0; }
</style>"""


@dataclasses.dataclass(frozen=True)
class HtmlTable:
    """A table of texts.

    Attributes:
        headings: The headings of the columns.
        rows: The cells of each row.
        notes: Sentences below it.
        strong: (row, column) of the cells in bold.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    strong: frozenset[tuple[int, int]] = frozenset()


@dataclasses.dataclass(frozen=True)
class ExampleText:
    """What is said of one example.

    Attributes:
        facts: (what, its value) pairs, such as ("logit", "3.21").
        likeliest: (class, its probability) pairs, the likeliest first.
        table: A table that is folded below the pictures; None for none.
        summary: The line to click on.
        note: A sentence below the facts.
    """

    facts: Sequence[tuple[str, str]]
    likeliest: Sequence[tuple[str, float]] = ()
    table: HtmlTable | None = None
    summary: str = ""
    note: str = ""


def result_html(
    title: str,
    method: str,
    inputs: Sequence[ExplainedInput],
    texts: Sequence[ExampleText],
    numbers: Sequence[int] | None = None,
    left_out: str = "",
) -> Html:
    """Examples with their maps as one `<div>`, every text escaped; it loads nothing.

    Args:
        title: The heading.
        method: The name of what the maps show.
        inputs: The inputs with their maps, of the examples that are shown.
        texts: What is said of each of these examples.
        numbers: The number of each of these examples, and of others behind; None counts from 0.
        left_out: A sentence about those that are not shown.
    """
    drawn = [_Drawn(one, method) for one in inputs]
    parts = [_STYLE, f"<h3>{escaped(title)}</h3>"]
    for i, text in enumerate(texts):
        number = i if numbers is None else numbers[i]
        facts = " · ".join(f"{what} {value}" for what, value in text.facts)
        parts.append(f"<h4>example {number}</h4><p>{escaped(facts)}</p>")
        if text.note:
            parts.append(f"<p>{escaped(text.note)}</p>")
        pictures = [one.example(i, number) for one in drawn]
        if text.likeliest:
            rows = [[name, f"{p:.3f}"] for name, p in text.likeliest]
            pictures.append(_table(HtmlTable(["class", "probability"], rows)))
        parts.append('<div class="pictures">' + "\n".join(pictures) + "</div>")
        if text.table is not None:
            summary = escaped(text.summary)
            table = _table(text.table)
            parts.append(f"<details><summary>{summary}</summary>{table}</details>")
    if left_out:
        parts.append(f"<p>{escaped(left_out)}</p>")
    return Html('<div class="tfgrad-result">' + "\n".join(parts) + "</div>")


def table_html(title: str, table: HtmlTable) -> Html:
    """A table as one `<div>`, every text escaped."""
    heading = f"<h3>{escaped(title)}</h3>" if title else ""
    return Html(f'<div class="tfgrad-result">{_STYLE}{heading}{_table(table)}</div>')


def escaped(text: str) -> str:
    """A text as HTML."""
    return html.escape(readable(text))


class _Drawn:
    """The pictures of one input.

    Args:
        given: The input.
        method: The name of what its map shows.
    """

    def __init__(self, given: ExplainedInput, method: str) -> None:
        self._given, self._method = given, method
        self._signed = bool((given.maps < 0).any()) if given.kind != kinds.WORDS else False
        pictured = given.kind in (kinds.IMAGE, kinds.VOLUME)
        self._pixels = stretched(given.values) if pictured else None

    def example(self, i: int, number: int) -> str:
        """The pictures of an example."""
        given = self._given
        note = f"<p>{escaped(given.note)}</p>" if given.note else ""
        if given.kind == kinds.WORDS:
            return f"<div><p>{escaped(given.name)}</p>{note}</div>"
        strengths = scaled(given.maps[i], self._signed, given.scale)
        label = f"{given.name} of example {number}"
        if given.kind == kinds.IMAGE:
            assert self._pixels is not None
            return self._pair(self._pixels[i], strengths, label, given.name) + note
        if given.kind == kinds.VOLUME:
            assert self._pixels is not None
            most = int(np.abs(given.maps[i]).sum((1, 2)).argmax())
            name = f"{given.name}, slice {most} of {len(strengths)}, the most salient one"
            return self._pair(self._pixels[i, most], strengths[most], label, name) + note
        if given.kind == kinds.SERIES:
            curves = series_tag(given.values[i], strengths, escaped(f"{label} over its map"))
            return _figure(curves, f"{given.name} over {self._method}") + note
        if given.kind == kinds.TOKENS:
            assert given.tokens is not None
            name = self._method if given.name == "input" else f"{given.name}: {self._method}"
            try:
                return str(tokens_html(None, [given.tokens[i]], {name: given.maps[i : i + 1]}))
            except ValueError as error:  # texts that do not fit the map
                return f"<p>{escaped(f'{given.name}: not drawn: {error}')}</p>"
        return self._features(i) + note

    def _pair(self, picture: np.ndarray, strengths: np.ndarray, label: str, name: str) -> str:
        under = _figure(image_tag(picture, escaped(label)), name)
        overlay = image_tag(tinted(picture, strengths), escaped(f"{label} under its map"))
        return under + _figure(overlay, self._method)

    def _features(self, i: int) -> str:
        values, found = self._given.values[i], self._given.maps[i]
        order = np.argsort(-np.abs(found), kind="stable")[:_FEATURES]
        rows = [[str(k), f"{values[k]:.4g}", f"{found[k]:.4g}"] for k in order]
        rest = len(found) - len(order)
        notes = [f"{rest} features with smaller values are left out."] if rest else []
        return _table(HtmlTable([self._given.name, "value", self._method], rows, notes))


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{escaped(caption)}</figcaption></figure>"


def _table(table: HtmlTable) -> str:
    head = "".join(f"<th>{escaped(heading)}</th>" for heading in table.headings)
    rows = []
    for i, row in enumerate(table.rows):
        cells = [
            f"<td><strong>{escaped(cell)}</strong></td>"
            if (i, j) in table.strong
            else f"<td>{escaped(cell)}</td>"
            for j, cell in enumerate(row)
        ]
        rows.append("<tr>" + "".join(cells) + "</tr>")
    notes = "".join(f"<p>{escaped(note)}</p>" for note in table.notes)
    body = "\n".join(rows)
    return f"<div><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}</div>"
