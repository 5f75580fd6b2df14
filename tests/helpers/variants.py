"""Which cells of a battery `make test` runs: the others are marked slow, for `make test-all`.

Beside the functions of this module there are two markers, which conftest.py registers with pytest:

- `@pytest.mark.diagonal` on a test of several parameters: of their product, as many cells as the
  longest list has values, so that each value of each parameter is in one of them.
- `@pytest.mark.sample(every, start=0)`: each `every`th cell, counted from `start`. Batteries that
  run over one list of cases start at different ones, so that every case passes some of them.
"""

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


def mark_what_is_left_out(items: Iterable[pytest.Item]) -> None:
    """Mark slow what `diagonal` and `sample` leave out of the collected cells."""
    tests: dict[str, list] = {}
    for item in items:
        if hasattr(item, "callspec") and not item.get_closest_marker("slow"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cells in tests.values():
        kept = cells
        if cells[0].get_closest_marker("diagonal"):
            chosen = on_diagonal([cell.callspec.params for cell in cells])
            kept = [cell for cell, is_chosen in zip(cells, chosen, strict=True) if is_chosen]
        sample = cells[0].get_closest_marker("sample")
        if sample:
            kept = every_nth(kept, *sample.args, **sample.kwargs)
        for cell in cells:
            if cell not in kept:
                cell.add_marker(pytest.mark.slow)


def on_diagonal(cells: list[dict]) -> list[bool]:
    """Which cells, each given by its values of all parameters, are on the diagonal."""
    # The same values are the same objects; not all can be compared.
    axes = {name: list(dict.fromkeys(id(cell[name]) for cell in cells)) for name in cells[0]}
    longest = max(axes, key=lambda name: len(axes[name]))
    places = [{name: axes[name].index(id(cell[name])) for name in axes} for cell in cells]
    return [
        all(place[name] == place[longest] % len(axes[name]) for name in axes) for place in places
    ]


def every_nth(cells: list, every: int, start: int = 0) -> list:
    """The cells `start`, `start` + `every`, …, or the first where there is none of them."""
    return cells[start::every] or cells[:1]
