"""The input that maps are of, among several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def main_input(inputs: Sequence[Any]) -> int:
    """The index of the first input of rank 4, or else of the first one of the highest rank."""
    ranks = [t.shape.rank or 0 for t in inputs]
    return ranks.index(4 if 4 in ranks else max(ranks))
