"""One input of a network as a column of pictures, by its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures.canvas import Letters, finite
from tfgrad.figures.colouring import coloured, scaled
from tfgrad.figures.image_grids import CELL, GAP, placed_axes
from tfgrad.figures.map_grids import map_values, pixels_of
from tfgrad.figures.series import PALE, draw_series, map_rows, series_of
from tfgrad.figures.tables import bar_height, draw_bars, feature_names, name_bars
from tfgrad.figures.token_texts import SPECIAL, token_maps
from tfgrad.figures.tokens import set_tokens
from tfgrad.internal.arguments import one_of

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

KINDS = ("image", "table", "series", "tokens")
_SERIES = 2.6, 1.1  # width and height in inches
_TABLE = 1.8
_TEXT = 3.6


class Panel(Protocol):
    """The pictures of one input.

    Attributes:
        count: The number of examples.
        width, margin: Width of a picture, and of what is left of it, in inches.
    """

    count: int
    width: float
    margin: float

    def height(self, i: int) -> float:
        """Height of the picture of example i in inches."""
        ...

    def draw(self, figure: Figure, x: float, y: float, i: int, method: str) -> None:
        """Draw example i, with its upper left corner at a place in inches."""
        ...


def panel(
    name: str,
    values: Any,
    maps: Mapping[str, ArrayLike],
    *,
    kind: str | None,
    tokens: Any,
    features: Sequence[str] | None,
    magnitude: bool,
    scale: str,
) -> Panel:
    """The pictures of one input; see `saliency_of_inputs`."""
    given = np.asarray(values)
    depth = np.ndim(next(iter(maps.values())))
    if kind is not None:
        one_of("kinds", kind, KINDS)
    elif tokens is not None or given.dtype.kind in "iu":
        kind = "tokens"
    else:
        kind = {(2, 2): "table", (3, 2): "series", (3, 3): "image", (4, 3): "image"}.get(
            (given.ndim, depth)
        )
    if kind is None:
        raise ArgumentError(
            f"inputs: got {name!r} of shape {given.shape} with maps of {depth} axes; expected "
            "images [n, H, W, C], series [n, T, C], tables [n, F] or token ids [n, T]; try "
            "saliency_slices for volumes."
        )
    if kind == "tokens":
        return _Tokens(given if tokens is None else tokens, maps, magnitude, scale)
    if kind == "image":
        return _Image(given, maps, magnitude, scale)
    if kind == "series":
        return _Series(given, maps, magnitude, scale)
    return _Table(given, maps, features, magnitude)


class _Image:
    width, margin = 2 * CELL - GAP, 0.0

    def __init__(
        self, values: ArrayLike, maps: Mapping[str, ArrayLike], magnitude: bool, scale: str
    ) -> None:
        self._pixels = pixels_of(values)
        self.count = len(self._pixels)
        found = {name: map_values(given, name, self.count) for name, given in maps.items()}
        self._drawn = {
            name: coloured(np.abs(one) if magnitude else one, scale=scale)
            for name, one in found.items()
        }

    def height(self, i: int) -> float:
        return CELL - GAP

    def draw(self, figure: Figure, x: float, y: float, i: int, method: str) -> None:
        side = CELL - GAP
        for place, picture in enumerate((self._pixels[i], self._drawn[method][i])):
            axes = placed_axes(figure, x + place * CELL, y, side, side)
            axes.imshow(picture, interpolation="nearest", cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()


class _Series:
    width, margin = _SERIES[0], 0.35

    def __init__(
        self, values: ArrayLike, maps: Mapping[str, ArrayLike], magnitude: bool, scale: str
    ) -> None:
        self._series = series_of(values)
        self.count = len(self._series)
        rows = {name: map_rows(one, name, self.count, magnitude) for name, one in maps.items()}
        self._drawn = {
            name: coloured(one[:, np.newaxis], scale=scale, sequential=PALE)
            for name, one in rows.items()
        }

    def height(self, i: int) -> float:
        return _SERIES[1] + 0.15

    def draw(self, figure: Figure, x: float, y: float, i: int, method: str) -> None:
        axes = placed_axes(figure, x, y, *_SERIES)
        draw_series(axes, self._series[i], self._drawn[method][i])


class _Table:
    width = _TABLE

    def __init__(
        self,
        values: ArrayLike,
        maps: Mapping[str, ArrayLike],
        features: Sequence[str] | None,
        magnitude: bool,
    ) -> None:
        table = finite(values, "inputs")
        self.count = len(table)
        self._values = {name: map_rows(v, name, self.count, magnitude) for name, v in maps.items()}
        widths = {one.shape[1] for one in self._values.values()}
        if table.ndim != 2 or widths != {table.shape[1]}:
            raise ArgumentError(
                f"maps: got {sorted(widths)} values for a table of shape {table.shape}; expected "
                "one for each feature."
            )
        self._names = feature_names(features, table.shape[1])
        letters = Letters(7)
        self.margin = 0.12 + max(letters.width(letters.drawable(name)) for name in self._names)

    def height(self, i: int) -> float:
        return bar_height(len(self._names)) + 0.15

    def draw(self, figure: Figure, x: float, y: float, i: int, method: str) -> None:
        axes = placed_axes(figure, x, y, self.width, self.height(i) - 0.15)
        values = self._values[method]
        draw_bars(axes, values[i])
        name_bars(axes, self._names)
        low, high = min(values.min(), 0.0), max(values.max(), 0.0)
        edge = 0.05 * ((high - low) or 1.0)
        axes.set_xlim(low - edge, high + edge)
        axes.locator_params(axis="x", nbins=4)


class _Tokens:
    margin = 0.0

    def __init__(
        self, tokens: Any, maps: Mapping[str, ArrayLike], magnitude: bool, scale: str
    ) -> None:
        if isinstance(tokens, np.ndarray) and tokens.dtype.kind in "iu":
            tokens = [[str(token) for token in row] for row in np.atleast_2d(tokens)]
        rows, values = token_maps(tokens, maps, SPECIAL, magnitude)
        self.count = len(rows)
        letters = Letters(9)
        signed = {name: any((one < 0).any() for one in found) for name, found in values.items()}
        self._paragraphs = {
            name: [
                set_tokens(row, scaled(one, signed[name], scale), _TEXT, letters)
                for row, one in zip(rows, found, strict=True)
            ]
            for name, found in values.items()
        }
        every = [one for paragraphs in self._paragraphs.values() for one in paragraphs]
        self.width = max(1.0, *(one.width for one in every))

    def height(self, i: int) -> float:
        return max(paragraphs[i].height for paragraphs in self._paragraphs.values())

    def draw(self, figure: Figure, x: float, y: float, i: int, method: str) -> None:
        paragraph = self._paragraphs[method][i]
        axes = placed_axes(figure, x, y, self.width, paragraph.height)
        axes.set(xlim=(0, self.width), ylim=(paragraph.height, 0))
        axes.set_axis_off()
        paragraph.draw(axes, 0.0, 0.0)
