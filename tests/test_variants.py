"""What `@pytest.mark.diagonal` and `@pytest.mark.sample` leave to `make test-all`."""

import types

import pytest

from tests.helpers import variants


class Cell:
    """A collected test, as far as its markers are read."""

    def __init__(self, number, markers, params):
        self.nodeid, self.markers = f"tests/test_a.py::test_a[{number}]", list(markers)
        self.callspec = types.SimpleNamespace(params=params)

    def get_closest_marker(self, name):
        return next((m for m in self.markers if m.name == name), None)

    def add_marker(self, marker):
        self.markers.append(marker.mark)


def quick(cells):
    variants.mark_what_is_left_out(cells)
    return [cells.index(cell) for cell in cells if not cell.get_closest_marker("slow")]


def cells(*markers, rows=5, columns=("a", "b"), slow=()):
    """A product of parameters, of which the second varies first; some are marked slow already."""
    found = []
    for row in range(rows):
        for column in columns:
            marks = [m.mark for m in markers]
            if len(found) in slow:
                marks.append(pytest.mark.slow.mark)
            found.append(Cell(len(found), marks, {"row": row, "column": column}))
    return found


def test_without_a_marker_every_cell_is_quick():
    assert quick(cells()) == [*range(10)]


def test_every_value_is_on_the_diagonal_once_or_more_and_the_longest_lists_once():
    all_of_them = cells(pytest.mark.diagonal)
    kept = [all_of_them[i].callspec.params for i in quick(all_of_them)]
    assert [params["row"] for params in kept] == [*range(5)]
    assert [params["column"] for params in kept] == ["a", "b", "a", "b", "a"]


def test_values_that_cannot_be_compared_and_parameters_that_go_together():
    class Incomparable:
        __eq__ = None
        __hash__ = None

    both = [(Incomparable(), name) for name in "xyz"]
    found = [
        Cell(0, [pytest.mark.diagonal.mark], {"value": value, "name": name, "mode": mode})
        for value, name in both
        for mode in (True, False)
    ]
    assert quick(found) == [0, 3, 4]


def test_a_sample_counts_the_cells_that_are_not_slow():
    assert quick(cells(pytest.mark.sample(4))) == [0, 4, 8]
    assert quick(cells(pytest.mark.sample(4, start=1))) == [1, 5, 9]
    assert quick(cells(pytest.mark.sample(4), slow=(0, 2))) == [1, 6]
    assert quick(cells(pytest.mark.sample(2), pytest.mark.diagonal)) == [0, 4, 8]


def test_a_sample_is_never_empty():
    assert quick(cells(pytest.mark.sample(40, start=20))) == [0]
