"""The grammar of split names, and slices of a split: for digits and for folders."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tfgrad.errors import DataError


def parsed(split: str, names: Sequence[str], source: str) -> tuple[str, str | None, str | None]:
    """(name of the split, first bound, last bound) of a split or of a slice of one.

    Args:
        split: A split, or a slice such as "train[:100]" or "train[:80%]".
        names: The splits that there are.
        source: Name of the data set, for the error.

    Raises:
        DataError: It is neither of them.
    """
    known = "|".join(map(re.escape, names))
    match = re.fullmatch(rf"({known})(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if match is None:
        listed = ", ".join(map(repr, names))
        raise DataError(
            f"split: got {split!r}, which is unknown for {source!r}; expected {listed} or a slice "
            f"such as '{names[0]}[:100]' or '{names[0]}[:80%]'."
        )
    return match[1], match[2], match[3]


def within(
    first: str | None, last: str | None, count: int, split: str, name: str, source: str
) -> slice:
    """The positions of a slice of a split.

    Args:
        first: First bound: a number, a percentage such as "80%", or None; negative ones count from
            the end.
        last: Last bound, excluded.
        count: The number of examples of the whole split.
        split: The slice, for the error.
        name: The split that it is a part of.
        source: Name of the data set, for the error.

    Raises:
        DataError: It is empty, or reaches beyond the examples.
    """
    bounds = [_bound(text, count) for text in (first, last)]
    if any(bound is not None and abs(bound) > count for bound in bounds):
        raise DataError(
            f"split: got {split!r}, which reaches beyond its {count} {name} examples in "
            f"{source!r}; expected a slice within them."
        )
    found = slice(*bounds)
    if not len(range(count)[found]):
        raise DataError(
            f"split: got {split!r}, which is empty in {source!r}; expected at least one example. "
            f"Try '{name}'."
        )
    return found


def _bound(text: str | None, length: int) -> int | None:
    if text is None:
        return None
    if text.endswith("%"):
        return round(int(text[:-1]) * length / 100)  # TFDS rounds to the nearest example too.
    return int(text)
