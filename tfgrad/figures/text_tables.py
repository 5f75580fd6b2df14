"""Tables of text, as `model.summary()` prints them."""

from __future__ import annotations

from collections.abc import Sequence

from tfgrad.figures.token_texts import shortened

_LONGEST = 44  # characters of a cell
_BETWEEN = "  "


class Text(str):
    """Text that an interpreter or a notebook shows as it is, with its lines."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Markdown(Text):
    """A table of Markdown, which a notebook shows as a table."""

    __slots__ = ()

    def _repr_markdown_(self) -> str:
        return str(self)


def text_table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    left: int = 1,
) -> Text:
    """A table between lines.

    Args:
        title: The line above the table.
        headings: The headings of the columns.
        rows: The cells of each row; long ones are cut in the middle.
        notes: Lines below the table.
        left: The number of first columns whose text begins at the left; the others end at the
            right, as numbers do.
    """
    cells = [[shortened(cell, _LONGEST) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[j]) for row in cells) for j in range(len(headings))]
    total = max(
        sum(widths) + len(_BETWEEN) * (len(widths) - 1), len(title), *map(len, notes or [""])
    )
    lines = [
        _BETWEEN.join(
            cell.ljust(width) if j < left else cell.rjust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    rule = "─" * total
    return Text("\n".join([title, rule, lines[0], rule, *lines[1:], rule, *notes]))
