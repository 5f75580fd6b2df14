"""Results as figures: each example's input, map and overlay, or curves, bars and text."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfgrad.figures import explained_inputs as kinds
from tfgrad.figures.canvas import finished, new_figure
from tfgrad.figures.colouring import SCALES, coloured, laid_over, stretched
from tfgrad.figures.explained_inputs import ExplainedInput
from tfgrad.figures.image_grids import CAPTION, grid
from tfgrad.figures.series import saliency_series
from tfgrad.figures.several_inputs import saliency_of_inputs
from tfgrad.figures.tokens import saliency_tokens
from tfgrad.figures.volumes import saliency_slices
from tfgrad.internal.arguments import one_of

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

_OVERLAY = 0.55


def result_figure(
    path: str | os.PathLike[str] | None,
    title: str,
    method: str,
    inputs: Sequence[ExplainedInput],
    notes: Sequence[str],
    scale: str | None = None,
) -> Figure:
    """Draw examples with their maps; what cannot be drawn is named in the figure.

    Args:
        path: The PNG file to write; None writes none.
        title: A line above the figure.
        method: The name of what the maps show.
        inputs: The inputs with their maps, of the examples that are drawn.
        notes: What is said of each example.
        scale: See `saliency_grid`; None: what suits the kind of the input, "contrast" for images
            and volumes.

    Raises:
        ArgumentError: There is no such scale.
        ImportError: matplotlib is not installed.
        WriteError: The path cannot be written.
    """
    if scale is not None:
        one_of("scale", scale, SCALES)
    drawn = [one for one in inputs if one.kind != kinds.WORDS]
    if len(inputs) > 1:  # volumes have rows of slices, which no column holds
        drawn = [one for one in drawn if one.kind != kinds.VOLUME]
    left = [one for one in inputs if not any(one is other for other in drawn)]
    said = [f"{one.name}: {one.note or 'Not drawn: a volume beside others.'}" for one in left]
    said += [f"{one.name}: {one.note}" for one in drawn if one.note and one.kind != kinds.IMAGE]
    if not drawn:
        return words_figure(path, [title, *said, *notes])
    said = [line for text in said for line in textwrap.wrap(text, CAPTION)]
    notes = ["\n".join([notes[0], *said]), *notes[1:]]
    (one, *others) = drawn
    scale = scale or min(each.scale for each in drawn)  # "contrast" if one of them has it
    if others or len(inputs) > 1 or one.kind == kinds.TABLE:
        return _in_columns(path, title, method, drawn, notes, scale)
    if one.kind == kinds.IMAGE:
        return _images(path, title, method, one, notes, scale)
    maps = {method: one.maps}
    texts: dict[str, Any] = {"notes": notes, "title": title, "scale": scale}
    if one.kind == kinds.VOLUME:
        return saliency_slices(path, one.values, maps, **texts)
    if one.kind == kinds.SERIES:
        return saliency_series(path, one.values, maps, **texts)
    assert one.tokens is not None
    return saliency_tokens(path, one.tokens, maps, **texts)


def words_figure(path: str | os.PathLike[str] | None, lines: Sequence[str]) -> Figure:
    """A figure of text, in the place of what cannot be drawn."""
    parts = [part for line in lines for part in line.split("\n")]
    longest = max(map(len, parts))
    figure = new_figure((0.3 + 0.085 * longest, 0.2 + 0.2 * len(parts)))
    style: dict[str, Any] = {"fontsize": 9, "parse_math": False, "linespacing": 1.5}
    figure.text(0.02, 0.5, "\n".join(parts), va="center", **style)
    return finished(figure, path, is_text=True)


def _images(
    path: str | os.PathLike[str] | None,
    title: str,
    method: str,
    one: ExplainedInput,
    notes: Sequence[str],
    scale: str,
) -> Figure:
    pixels, colours = stretched(one.values), coloured(one.maps, scale=scale)
    rows = [
        [image, colour, laid_over(colour, image, _OVERLAY)]
        for image, colour in zip(pixels, colours, strict=True)
    ]
    columns = [one.heading, method, "overlay"]
    return grid(path, rows, columns=columns, captions=list(notes), title=title)


def _in_columns(
    path: str | os.PathLike[str] | None,
    title: str,
    method: str,
    drawn: Sequence[ExplainedInput],
    notes: Sequence[str],
    scale: str,
) -> Figure:
    return saliency_of_inputs(
        path,
        {one.name: one.values for one in drawn},
        {method: {one.name: one.maps for one in drawn}},
        tokens={one.name: one.tokens for one in drawn if one.tokens is not None},
        kinds={one.name: one.kind for one in drawn},
        notes=notes,
        scale=scale,
        title=title,
    )
