"""The record beside a network is of the types that commands write, or is named."""

import pytest

from apps.common import network_record
from tfgrad.errors import ModelError

RIGHT = {
    "normalize": [[0.1, 0.2], [1.0, 1.0]],
    "classes": ["a", "b"],
    "test": {"val_accuracy": 0.5},
    "accuracy": 0.5,
}


def test_what_commands_write():
    for record in (RIGHT, {}, RIGHT | {"normalize": None, "classes": None, "more": [1]}):
        assert network_record.checked("x.keras", record) == record
    assert network_record.checked("x.keras", [1]) == network_record.checked("x.keras", None) == {}


WRONG = {
    "normalize": (1, [1], [["a"], [1]], [1, None], {"mean": 0}, [float("nan"), 1]),
    "classes": ("ab", [1], {"a": 1}),
    "test": ([1], "a"),
    "accuracy": ("high", [0.5], True),
}


@pytest.mark.parametrize("name, value", [(n, v) for n, values in WRONG.items() for v in values])
def test_entries_of_other_types(name, value):
    with pytest.raises(
        ModelError, match=rf"x.keras: got {name}=.* in the record .*; expected .*Try"
    ):
        network_record.checked("x.keras", RIGHT | {name: value})
