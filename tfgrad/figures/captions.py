"""Texts beside examples: classes, predictions and notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError

SHOWN = 8  # examples of a result that are drawn
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


def class_names(given: Any, classes: int | None = None, largest: int = -1) -> list[str] | None:
    """The argument `class_names` as a list; None if there are none.

    Args:
        given: A list of texts, one for each class; None for numbers.
        classes: The number of classes, if it is known.
        largest: The largest class that has to be named.

    Raises:
        ArgumentError: They are no texts, or not one for each class.
    """
    if given is None:
        return None
    listed = [] if isinstance(given, str | bytes) else list(given)
    if not listed or not all(isinstance(name, str) for name in listed):
        raise ArgumentError(
            f"class_names: got {given!r:.60}; expected a list of texts, one for each class."
        )
    if (classes is not None and len(listed) != classes) or len(listed) <= largest:
        expected = f"at least {largest + 1}" if classes is None else str(classes)
        raise ArgumentError(
            f"class_names: got {len(listed)} names; expected {expected}, one for each class."
        )
    return [str(name) for name in listed]


def named(index: int, names: Sequence[str] | None) -> str:
    """A class by its number, and its name if there are names."""
    return str(index) if names is None else f"{index} ({names[index]})"


def left_out(examples: int, shown: int) -> str:
    """A sentence about the examples of a batch that are not drawn; "" if there are none."""
    if examples <= shown:
        return ""
    return f"{shown} of {examples} examples, {examples - shown} left out"
