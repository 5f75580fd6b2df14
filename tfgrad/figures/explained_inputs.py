"""What a result shows of one input: its examples and their map, by kind; needs no matplotlib."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

IMAGE, SERIES, TABLE, TOKENS, VOLUME, WORDS = (
    *("image", "series", "table", "tokens", "volume"),
    "words",
)
_BARS = 40  # values [n, F] up to which they are bars, and a curve above
_CURVES = 16  # channels of a series up to which they are drawn


@dataclasses.dataclass(frozen=True)
class ExplainedInput:
    """One input with its map.

    Attributes:
        name: What the input is called; "input" of a network with one.
        kind: "image", "series", "table", "tokens" or "volume"; "words" for what cannot be drawn.
        values: The examples: [n, H, W, 1 or 3] of images, [n, T, C], [n, F], [n, D, H, W, 1 or 3],
            the ids [n, T] of tokens; as they were given where they cannot be drawn.
        maps: Their map, [n, …].
        tokens: The texts of tokens.
        note: What the drawing leaves out, or why there is none.
        heading: The heading of images; the name, unless their channels are not drawn one by one.
    """

    name: str
    kind: str
    values: Any
    maps: np.ndarray
    tokens: Sequence[Sequence[Any]] | None = None
    note: str = ""
    heading: str = ""

    @property
    def scale(self) -> str:
        """How its map is scaled unless it is said otherwise.

        Maps of pixels may lie far above 0 everywhere, which would leave them without contrast.
        """
        return "contrast" if self.kind in (IMAGE, VOLUME) else "percentile"

    def part(self, start: int, stop: int) -> ExplainedInput:
        """The same of some examples."""
        tokens = None if self.tokens is None else self.tokens[start:stop]
        values = None if self.values is None else self.values[start:stop]
        return dataclasses.replace(self, values=values, maps=self.maps[start:stop], tokens=tokens)


def explained_input(
    name: str, values: Any, maps: Any, tokens: Sequence[Sequence[Any]] | None = None
) -> ExplainedInput:
    """An input with its map, of the kind that their axes tell.

    Args:
        name: What the input is called.
        values: The examples: floats with their channels last, where there are any; ids or texts
            [n, T]; None if the map is not of an input.
        maps: The map, [n, *positions].
        tokens: The texts of ids.
    """
    maps = np.asarray(maps)

    def words(reason: str) -> ExplainedInput:
        return ExplainedInput(name, WORDS, values, maps, note=f"Not drawn: {reason}.")

    if not np.isfinite(maps).all():
        return words("its map holds NaN or infinite values")
    if values is None:
        return words(f"its map {_written(maps)} is not of an input, but of a layer's output")
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        texts = tokens if tokens is not None or values.dtype.kind not in "OSU" else values.tolist()
        if texts is None or values.shape != maps.shape or maps.ndim != 2:
            return words(f"got {values.dtype.name} values {_written(values)}")
        return ExplainedInput(name, TOKENS, values, maps, texts)
    if values.dtype.kind in "iu":
        if values.shape != maps.shape or maps.ndim != 2:
            return words(f"got integers {_written(values)} with maps {_written(maps)}")
        texts = [[str(n) for n in row] for row in values] if tokens is None else tokens
        return ExplainedInput(name, TOKENS, values, maps, texts)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        return words("the input holds NaN or infinite values")
    if values.shape == maps.shape and maps.ndim > 2:
        values = values[..., np.newaxis]
    if values.shape[: maps.ndim] != maps.shape or 0 in values.shape:
        return words(f"got an input {_written(values)} with maps {_written(maps)}")
    if maps.ndim == 2:
        return _rows(name, values, maps)
    if maps.ndim in (3, 4) and values.ndim == maps.ndim + 1:
        kind = IMAGE if maps.ndim == 3 else VOLUME
        count = values.shape[-1]
        if count in (1, 3):
            return ExplainedInput(name, kind, values, maps, heading=name)
        note, heading = f"The mean of {count} channels is drawn.", f"mean of {count} channels"
        mean = values.mean(-1, keepdims=True)
        return ExplainedInput(name, kind, mean, maps, note=note, heading=heading)
    return words(f"got an input {_written(values)} with maps {_written(maps)}")


def _rows(name: str, values: np.ndarray, maps: np.ndarray) -> ExplainedInput:
    if values.ndim == 2 and values.shape[1] <= _BARS:
        return ExplainedInput(name, TABLE, values, maps)
    if values.ndim == 2:
        return ExplainedInput(name, SERIES, values[..., np.newaxis], maps)
    if values.ndim == 3 and values.shape[-1] <= _CURVES:
        return ExplainedInput(name, SERIES, values, maps)
    if values.ndim == 3:
        note = f"The mean of {values.shape[-1]} channels is drawn."
        return ExplainedInput(name, SERIES, values.mean(-1, keepdims=True), maps, note=note)
    reason = f"got an input {_written(values)} with maps {_written(maps)}"
    return ExplainedInput(name, WORDS, values, maps, note=f"Not drawn: {reason}.")


def _written(values: np.ndarray) -> str:
    return str(list(values.shape))
