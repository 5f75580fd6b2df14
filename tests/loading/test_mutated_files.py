"""Mutated model files load, or are rejected by one family of errors: none hangs or kills."""

import collections

import pytest

from tests.helpers import mutated_files
from tests.helpers.loading_cases import build
from tests.helpers.loading_process import outcomes

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning",
    "ignore:Skipping (variable loading|nested container)",
    "ignore:Duplicate name",
)
LONGEST, LARGEST = 10, 2048  # seconds, MiB


def test_configs_and_metadata(tmp_path):
    """Only JSON is mutated here: what reaches other libraries is tried in processes of its own."""
    source = tmp_path / "good.keras"
    build().save(source)
    found = collections.Counter()
    for index in range(40):
        path = tmp_path / f"{index}.keras"
        mutated_files.mutated_config(source, path, index)
        found[mutated_files.outcome(path)] += 1
    assert set(found) == {"loaded", "rejected"}, found


@pytest.mark.slow
def test_mutated_files(tmp_path):
    sources = mutated_files.write_sources(tmp_path)
    counts = {"keras": 120, "h5": 120, "saved_model": 100, "metadata": 100}
    made = list(mutated_files.write_mutated(tmp_path, sources, counts))
    # Three times as long, as the machine may be busy; the process that hung is killed then.
    found = outcomes([path for *_, path in made], 3 * LONGEST)
    others = [
        (how, path, result)
        for (_, how, path), result in zip(made, found, strict=True)
        if result[0] not in ("loaded", "rejected") or result[2] > LARGEST
    ]
    assert not others
    table = collections.Counter(
        (kind, result[0]) for (kind, *_), result in zip(made, found, strict=True)
    )
    assert all(table[kind, result] for kind in counts for result in ("loaded", "rejected")), table
