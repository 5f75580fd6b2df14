"""The maps of a network with several inputs: each input as pixels, bars, a curve or text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures import panels
from tfgrad.figures.canvas import finished, new_figure
from tfgrad.figures.captions import Captions
from tfgrad.figures.colouring import SCALES
from tfgrad.figures.image_grids import CAPTION, CHARACTER, fitted
from tfgrad.internal.arguments import one_of

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

_BETWEEN, _BELOW = 0.25, 0.12  # inches between columns, and below a row


def saliency_of_inputs(
    path: str | os.PathLike[str] | None,
    inputs: Any,
    maps: Mapping[str, Any],
    *,
    tokens: Mapping[Any, Sequence[Sequence[str]]] | None = None,
    features: Mapping[Any, Sequence[str]] | None = None,
    kinds: Mapping[Any, str] | None = None,
    labels: Sequence[Any] | None = None,
    predictions: Sequence[Any] | None = None,
    probabilities: ArrayLike | None = None,
    notes: Sequence[str] | None = None,
    magnitude: bool = False,
    scale: str = "percentile",
    title: str | None = None,
) -> Figure:
    """Draw the maps of several inputs: a row for each example and method, a column for each input.

    An image is drawn beside its map, a table as bars, a series as curves over the colours of its
    map, and token ids as coloured text. Inputs without a map are left out. Each map is scaled by
    itself, as in `saliency_grid`, so colours do not tell which input matters more; sums do.

    Args:
        path: The PNG file to write; None writes none.
        inputs: What the network takes: a dict, a list or tuple, or one array, the batch first.
        maps: {name of a method: its maps}, in the structure of the inputs or a part of it. In the
            place of an input without a map, a list has None.
        tokens: {key of an input: the tokens of each example, see `saliency_tokens`}. Ids without
            texts are drawn as numbers.
        features: {key of a table: the names of its features}.
        kinds: {key of an input: "image", "table", "series" or "tokens"}, where it is not this:
            integers are tokens; floats [n, F] a table; an input with maps [n, T] of two axes a
            series, with maps [n, H, W] an image. The key of a list is the position, of one array 0.
        labels, predictions, probabilities, notes: See `saliency_grid`.
        magnitude, scale: See `saliency_grid`.
        title: A line above the figure.

    Returns:
        The figure, which a notebook shows.

    Raises:
        ArgumentError: There is no map, a map has no input, shapes do not fit, a value is NaN or
            infinite, or an option does not exist.
        ImportError: matplotlib is not installed.
    """
    one_of("scale", scale, SCALES)
    given = _keyed(inputs)
    found = {name: _keyed(nest, given, f"maps[{name!r}]") for name, nest in maps.items()}
    explained = [key for key in given if any(key in keyed for keyed in found.values())]
    if not explained:
        raise ArgumentError("maps: got no map; expected the maps of one method or more.")
    for name, options in (("tokens", tokens), ("features", features), ("kinds", kinds)):
        if unknown := [key for key in options or {} if key not in explained]:
            raise ArgumentError(
                f"{name}: got {unknown}; expected keys of explained inputs, {explained}."
            )
    columns = {
        key: panels.panel(
            _name(key, inputs),
            given[key],
            {name: keyed[key] for name, keyed in found.items() if key in keyed},
            kind=(kinds or {}).get(key),
            tokens=(tokens or {}).get(key),
            features=(features or {}).get(key),
            magnitude=magnitude,
            scale=scale,
        )
        for key in explained
    }
    counts = {_name(key, inputs): column.count for key, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise ArgumentError(f"inputs: got {counts} examples; expected equal numbers.")
    count = next(iter(counts.values()))
    captions = Captions(labels, predictions, probabilities, notes, count)
    rows = [(i, name) for i in range(count) for name in found]
    texts = [
        "\n".join(
            fitted(part, CAPTION) for part in (captions.text(i) or f"example {i}", name) if part
        )
        for i, name in rows
    ]

    longest = max(len(line) for text in texts for line in text.split("\n"))
    left = longest * CHARACTER + 0.25
    top = 0.34 + (0.26 if title else 0)
    heights = [max(c.height(i) for c in columns.values()) + _BELOW for i, _ in rows]
    width = left + sum(c.margin + c.width + _BETWEEN for c in columns.values())
    figure = new_figure((width, top + sum(heights) + 0.1))
    size = figure.get_size_inches()
    style: dict[str, Any] = {"fontsize": 8, "parse_math": False}
    x = left
    for key, column in columns.items():
        y = top
        middle = x + column.margin + column.width / 2
        heading = fitted(_name(key, inputs), 30)
        figure.text(
            middle / size[0], 1 - (top - 0.08) / size[1], heading, ha="center", va="bottom", **style
        )
        for (i, name), height in zip(rows, heights, strict=True):
            if key in found[name]:
                column.draw(figure, x + column.margin, y, i, name)
            y += height
        x += column.margin + column.width + _BETWEEN
    y = top
    for (i, _), text, height in zip(rows, texts, heights, strict=True):
        figure.text(
            (left - 0.15) / size[0],
            1 - (y + (height - _BELOW) / 2) / size[1],
            text,
            ha="right",
            va="center",
            color=captions.colour(i),
            linespacing=1.5,
            **style,
        )
        y += height
    if title:
        figure.text(0.5, 1 - 0.06 / size[1], title, ha="center", va="top", fontsize=11)
    return finished(figure, path)


def _keyed(nest: Any, inputs: Mapping[Any, Any] | None = None, name: str = "inputs") -> dict:
    """{key or position: array} of a nest; only keys of the inputs are allowed."""
    if isinstance(nest, Mapping):
        keyed = dict(nest)
    elif isinstance(nest, list | tuple):
        keyed = dict(enumerate(nest))
        if inputs is not None and len(inputs) != len(keyed):
            raise ArgumentError(
                f"{name}: got a list of {len(keyed)} maps; expected {len(inputs)}, one for each "
                "input; try None in the place of an input without a map."
            )
    else:
        keyed = {0: nest}
    keyed = {key: value for key, value in keyed.items() if value is not None}
    if inputs is not None and (unknown := [key for key in keyed if key not in inputs]):
        raise ArgumentError(
            f"{name}: got maps of {unknown}; expected inputs among {[*inputs]}; try "
            "{name of a method: its maps}."
        )
    return keyed


def _name(key: Any, inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        return str(key)
    return f"input {key}" if isinstance(inputs, list | tuple) else "input"
