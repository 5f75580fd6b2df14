"""A report as PDF: the same sentences, tables and pictures on pages of A4, by matplotlib."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

from tfgrad.figures import canvas
from tfgrad.figures.result_pages import HtmlTable

from .sections import Block, Picture, Report, Section

_WIDTH, _HEIGHT, _MARGIN = 8.27, 11.69, 0.8  # inches
_INNER = _WIDTH - 2 * _MARGIN
_POINT = 1 / 72  # inches
_DPI = 150  # of pictures
_CELL_GAP = 0.16  # inches between the columns of a table
_WIDEST, _NAME = 70, 24  # characters of a cell's line, and of that of a row's name
_SCALE = 0.65  # of pictures


def content(report: Report) -> bytes:
    """The file."""
    from matplotlib.backends.backend_pdf import PdfPages

    pages = _Pages()
    pages.text(report.title, 17, bold=True)
    pages.space(0.08)
    pages.table(HtmlTable(["", ""], [[what, value] for what, value in report.summary]))
    for part in report.sections:
        _section(pages, part)
    pages.number()
    buffer = io.BytesIO()
    with PdfPages(buffer, metadata={"Title": report.title, "Creator": "tfgrad"}) as file:
        for figure in pages.figures:
            file.savefig(figure)
    return buffer.getvalue()


def _section(pages: "_Pages", part: Section) -> None:
    pages.space(0.3)
    pages.keep(1.4)  # no heading at the foot of a page
    pages.text(part.title, 13, bold=True)
    pages.text(part.how, 8.5, colour="0.35")
    pages.space(0.06)
    for block in part.blocks:
        _block(pages, block)


def _block(pages: "_Pages", block: Block) -> None:
    if isinstance(block, str):
        pages.text(block, 9.5)
    elif isinstance(block, HtmlTable):
        pages.table(block)
        for note in block.notes:
            pages.text(f"– {note}", 7, colour="0.35")
    else:
        pages.picture(block)
    pages.space(0.1)


class _Pages:
    """Pages that are filled from top to bottom."""

    def __init__(self) -> None:
        self.figures: list[Any] = []
        self._letters: dict[float, canvas.Letters] = {}
        self._turn()

    def number(self) -> None:
        """Write the number of each page at its foot."""
        for i, figure in enumerate(self.figures, 1):
            text = f"{i} of {len(self.figures)}"
            self._write(figure, _WIDTH / 2, _HEIGHT - 0.45, text, 7, ha="center", color="0.35")

    def space(self, inches: float) -> None:
        """Leave some space, unless a page has just begun."""
        if self._y > _MARGIN:
            self._y += inches

    def keep(self, inches: float) -> None:
        """Turn the page if less space is left."""
        if self._y + inches > _HEIGHT - _MARGIN:
            self._turn()

    def text(self, text: str, size: float, bold: bool = False, colour: str = "black") -> None:
        """A paragraph."""
        for line in self._lines(text, size * (1.08 if bold else 1), _INNER):
            self.keep(1.4 * size * _POINT)
            style = {"weight": "bold"} if bold else {}
            self._write(self._page, _MARGIN, self._y, line, size, color=colour, **style)
            self._y += 1.4 * size * _POINT

    def table(self, table: HtmlTable) -> None:
        """A table, in a size in which it fits; its headings are repeated on every page."""
        has_head = any(table.headings)
        rows = [
            [
                textwrap.wrap(c, _NAME if has_head and j == 0 else _WIDEST) or [""]
                for j, c in enumerate(row)
            ]
            for row in table.rows
        ]
        heads = [textwrap.wrap(cell, 14) or [""] for cell in table.headings]
        size, widths = self._fitting([heads, *rows])
        height = 1.45 * size * _POINT

        def draw(row: Sequence[Sequence[str]], strong: Sequence[bool]) -> None:
            x = _MARGIN
            for j, cell in enumerate(row):
                left = j == 0 or not has_head
                for k, line in enumerate(cell):
                    place = x if left else x + widths[j]
                    style: dict[str, Any] = {"ha": "left" if left else "right"}
                    if strong[j]:
                        style["weight"] = "bold"
                    self._write(self._page, place, self._y + k * height, line, size, **style)
                x += widths[j] + _CELL_GAP
            self._y += max(map(len, row)) * height

        def head() -> None:
            draw(heads, [True] * len(heads))
            self._rule(sum(widths) + _CELL_GAP * (len(widths) - 1))

        self.keep((max(map(len, heads)) + 2) * height)
        if has_head:
            head()
        for i, row in enumerate(rows):
            if self._y + max(map(len, row)) * height > _HEIGHT - _MARGIN:
                self._turn()
                if has_head:
                    head()
            draw(row, [(i, j) in table.strong for j in range(len(row))])

    def picture(self, picture: Picture) -> None:
        """A figure, reduced to the width and the height of a page."""
        from matplotlib.image import imread

        wide, high = picture.figure.get_size_inches()
        scale = min(_SCALE, _INNER / wide, (_HEIGHT - 2 * _MARGIN) / high)
        self.keep(scale * high)
        buffer = io.BytesIO()
        picture.figure.savefig(buffer, format="png", dpi=_DPI)
        buffer.seek(0)
        pixels = imread(buffer)
        x, y, w, h = _MARGIN, self._y, scale * wide, scale * high
        place = (x / _WIDTH, 1 - (y + h) / _HEIGHT, w / _WIDTH, h / _HEIGHT)
        axes = self._page.add_axes(place)
        axes.imshow(pixels, aspect="auto", interpolation="nearest")
        axes.set_axis_off()
        self._y += h

    def _turn(self) -> None:
        self._page = canvas.new_figure((_WIDTH, _HEIGHT))
        self.figures.append(self._page)
        self._y = _MARGIN

    def _rule(self, width: float) -> None:
        from matplotlib.lines import Line2D

        y = 1 - (self._y + 0.02) / _HEIGHT
        ends = [_MARGIN / _WIDTH, (_MARGIN + width) / _WIDTH]
        self._page.add_artist(Line2D(ends, [y, y], color="0.6", linewidth=0.6))
        self._y += 0.05

    def _write(self, page: Any, x: float, y: float, text: str, size: float, **style: Any) -> None:
        """A line, whose upper end is y inches from the top."""
        drawable = self._of_size(size).drawable(text)
        style = {"va": "top", "ha": "left", "family": canvas.FONT, "parse_math": False, **style}
        page.text(x / _WIDTH, 1 - y / _HEIGHT, drawable, fontsize=size, **style)

    def _fitting(self, rows: Sequence[Sequence[Sequence[str]]]) -> tuple[float, list[float]]:
        """The largest size in which rows of cells of lines fit, and the widths of the columns."""
        for size in (8.5, 7.5, 6.5, 5.5, 4.5, 3.5):
            letters = self._of_size(size)
            widths = [
                max(1.1 * letters.width(line) for row in rows for line in row[j])
                for j in range(len(rows[0]))
            ]
            if sum(widths) + _CELL_GAP * (len(widths) - 1) <= _INNER:
                break
        return size, widths

    def _lines(self, text: str, size: float, width: float) -> list[str]:
        """The text in lines of a width; words that are longer are cut."""
        letters, lines = self._of_size(size), [""]
        for word in text.split():
            while letters.width(word) > width:
                fits = next(n for n in range(len(word), 0, -1) if letters.width(word[:n]) <= width)
                lines.append(word[:fits])
                word = word[fits:]
            longer = f"{lines[-1]} {word}".strip()
            if letters.width(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return [line for line in lines if line]

    def _of_size(self, size: float) -> canvas.Letters:
        if size not in self._letters:
            self._letters[size] = canvas.Letters(size)
        return self._letters[size]
