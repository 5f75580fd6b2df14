"""Texts beside examples: classes, predictions and notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError

BLACK, RIGHT, WRONG = "black", "#1a7f37", "#c62828"


class Captions:
    """The text to the left of every row, and its colour; see `saliency_grid`.

    Args:
        labels, predictions, probabilities, notes: See `saliency_grid`.
        count: The number of rows.
    """

    def __init__(
        self,
        labels: Sequence[Any] | None,
        predictions: Sequence[Any] | None,
        probabilities: ArrayLike | None,
        notes: Sequence[str] | None,
        count: int,
    ) -> None:
        for name, given in (
            ("labels", labels),
            ("predictions", predictions),
            ("probabilities", probabilities),
            ("notes", notes),
        ):
            if given is not None and np.shape(given) != (count,):
                raise ArgumentError(
                    f"{name}: got shape {np.shape(given)}; expected one for each of {count} images."
                )
        self._labels, self._predictions = labels, predictions
        self._probabilities = None if probabilities is None else np.asarray(probabilities)
        self._notes = notes

    def text(self, i: int) -> str:
        """The lines of row i."""
        lines = [] if self._labels is None else [f"true: {self._labels[i]}"]
        if self._predictions is not None:
            lines.append(f"predicted: {self._predictions[i]}")
        if self._probabilities is not None:
            lines.append(f"p = {self._probabilities[i]:.2f}")
        if self._notes is not None:
            lines.append(self._notes[i])
        return "\n".join(lines)

    def colour(self, i: int) -> str:
        """Green or red by whether label and prediction of row i agree; black if one is unknown."""
        if self._labels is None or self._predictions is None:
            return BLACK
        return RIGHT if self._labels[i] == self._predictions[i] else WRONG
