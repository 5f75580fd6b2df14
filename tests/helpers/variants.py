"""Which cells of a battery `make test` runs."""

from collections.abc import Iterable

import pytest


def one_of_each(variants: Iterable[str]) -> list:
    """The names CLASS-VARIANT, of which all but the first of each class are marked slow.

    For tests of what the options of a class hardly change, such as saving. `make test` then tests
    every class, and `make test-all` every variant.
    """
    seen: set[str] = set()
    found = []
    for name in variants:
        first = name.partition("-")[0] not in seen
        seen.add(name.partition("-")[0])
        found.append(name if first else pytest.param(name, marks=pytest.mark.slow))
    return found


def with_slow(quick: Iterable, slow: Iterable) -> list:
    """Cells of a parametrisation: the quick ones, and others that check the same and are slow."""
    return [*quick, *(pytest.param(*_tuple(cell), marks=pytest.mark.slow) for cell in slow)]


def _tuple(cell: object) -> tuple:
    return cell if isinstance(cell, tuple) else (cell,)
