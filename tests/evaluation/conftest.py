"""Times of maps are measured only as often as they must be."""

import pytest

from tfgrad.evaluation.comparison import cost


@pytest.fixture(autouse=True)
def _short_measurement(monkeypatch):
    monkeypatch.setattr(cost, "_SECONDS", 0.0)
