"""Token sequences as coloured text."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures.canvas import Letters, finished, new_figure
from tfgrad.figures.captions import Captions
from tfgrad.figures.colouring import SCALES, grey_ink, ink, scaled, white_to_red
from tfgrad.figures.image_grids import CHARACTER, fitted, placed_axes
from tfgrad.figures.token_texts import SPECIAL, TokenRow, shortened, token_maps
from tfgrad.internal.arguments import one_of

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

_SIZE = 9  # points
_LINE, _BOX = 0.21, 0.17  # inches from one line to the next, and of a token's box
_GAP, _INSIDE = 0.03, 0.035  # inches between two boxes, and beside the text of one
_WIDTH = 6.5  # inches of text
_TALLEST = 400  # inches of a figure; a canvas has 2^16 pixels at most
_NAME, _CAPTION = 22, 110  # characters of a method's name and of a caption
_REPEATS = "0.45"
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")


def saliency_tokens(
    path: str | os.PathLike[str] | None,
    tokens: Sequence[Sequence[str]],
    maps: Mapping[str, ArrayLike],
    *,
    labels: Sequence[Any] | None = None,
    predictions: Sequence[Any] | None = None,
    probabilities: ArrayLike | None = None,
    notes: Sequence[str] | None = None,
    special: Collection[str] = SPECIAL,
    magnitude: bool = False,
    scale: str = "percentile",
    font: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw token sequences, each token on the colour of its saliency.

    Every example is a line with its caption, and a paragraph for each method. Colours run from
    white at zero to red, and to blue below zero; each map is scaled by itself, as in
    `saliency_grid`.

    Special tokens are grey, and repetitions of the last one without saliency are written as
    "[PAD] ×40". Control characters, and characters that the font lacks, are escaped ("\\u4e2d"),
    spaces at the ends of a token are "␣", and a long token is cut in the middle. An example whose
    letters are mostly Hebrew or Arabic runs from the right; matplotlib joins and orders the
    letters of a token from its version 3.11 on.

    Args:
        path: The PNG file to write; None writes none.
        tokens: The tokens of n examples: lists of texts or UTF-8 bytes, of any lengths, or an array
            or tensor [n, T] of them.
        maps: {name of a method: its raw maps [n, T]}. Where an example has fewer tokens, the rest
            of its row must be 0.
        labels, predictions, probabilities, notes: See `saliency_grid`; one line for each example.
        special: Tokens that are no text of the example, such as padding.
        magnitude: Whether signed maps are drawn by their absolute values.
        scale: See `saliency_grid`.
        font: The name of an installed font that is tried first, for scripts that matplotlib's own
            lacks.
        title: A line above the figure.

    Returns:
        The figure, which a notebook shows.

    Raises:
        ArgumentError: Tokens are no texts, shapes do not fit, a value is NaN or infinite, an option
            does not exist, or the text is too long for a figure.
        ImportError: matplotlib is not installed.
    """
    one_of("scale", scale, SCALES)
    rows, values = token_maps(tokens, maps, special, magnitude)
    captions = Captions(labels, predictions, probabilities, notes, len(rows))
    letters = Letters(_SIZE, font)
    names = [shortened(letters.drawable(name), _NAME) for name in values]
    signed = [any((one < 0).any() for one in found) for found in values.values()]
    left = max(map(len, names)) * CHARACTER + 0.2
    top = 0.08 + (0.26 if title else 0)

    # Paragraphs first, because their heights are the figure's.
    paragraphs: list[tuple[float, int, int, Paragraph]] = []
    headings: list[tuple[float, int]] = []
    y = top
    for i, row in enumerate(rows):
        if captions.text(i):
            headings.append((y, i))
            y += _LINE + 0.02
        for j, found in enumerate(values.values()):
            paragraph = set_tokens(row, scaled(found[i], signed[j], scale), _WIDTH, letters)
            paragraphs.append((y, i, j, paragraph))
            y += paragraph.height + 0.05
        y += 0.1
    if y > _TALLEST:
        raise ArgumentError(
            f"tokens: got a text of {y / _LINE:.0f} lines; expected {_TALLEST / _LINE:.0f} at most "
            "in a figure; try fewer examples, or tokens_html."
        )
    texts = {
        i: fitted(letters.drawable(captions.text(i).replace("\n", "    ")), _CAPTION)
        for _, i in headings
    }
    wide = max(map(letters.width, texts.values()), default=0.0)
    wide = max(wide, 1.3 * letters.width(letters.drawable(title or "")) - left)
    size = (left + max(wide, *(paragraph.width for *_, paragraph in paragraphs)) + 0.1, y)
    figure = new_figure(size)
    axes = placed_axes(figure, 0, 0, *size)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    axes.set_axis_off()
    style = {"fontsize": _SIZE, "fontfamily": letters.families, "parse_math": False}
    for y, i in headings:
        colour = captions.colour(i)
        axes.text(left, y + _BOX / 2, texts[i], va="center_baseline", color=colour, **style)
    for y, _, j, paragraph in paragraphs:
        x = left - 0.1
        axes.text(x, y + _BOX / 2, names[j], ha="right", va="center_baseline", **style)
        paragraph.draw(axes, left, y)
    if title:
        style["fontsize"] = 11
        text = letters.drawable(title)
        axes.text(size[0] / 2, 0.06, text, ha="center", va="top", **style)
    return finished(figure, path, is_text=True)


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Tokens at their places, in inches from the upper left corner of a paragraph.

    Attributes:
        places: (x, y, width) of each token's box.
        texts, colours, inks: The tokens, the colours of their boxes and of their texts.
        width, height: Of all lines.
        letters: The font.
    """

    places: list[tuple[float, float, float]]
    texts: list[str]
    colours: list[Any]
    inks: list[Any]
    width: float
    height: float
    letters: Letters

    def draw(self, axes: Any, left: float, top: float) -> None:
        """Draw it on axes in inches whose vertical one runs downwards."""
        for y in sorted({place[1] for place in self.places}):
            line = [i for i, place in enumerate(self.places) if place[1] == y]
            spans = [(left + self.places[i][0], self.places[i][2]) for i in line]
            colours = [self.colours[i] for i in line]
            axes.broken_barh(spans, (top + y, _BOX), facecolors=colours, linewidth=0)
        for (x, y, width), text, shade in zip(self.places, self.texts, self.inks, strict=True):
            axes.text(
                left + x + width / 2,
                top + y + _BOX / 2 + 0.048,
                text,
                ha="center",
                va="baseline",
                color=shade,
                fontsize=self.letters.size,
                fontfamily=self.letters.families,
                parse_math=False,
            )


def set_tokens(row: TokenRow, strengths: np.ndarray, width: float, letters: Letters) -> Paragraph:
    """Break a row of tokens into lines.

    Args:
        row: The tokens.
        strengths: The saliency of each, in −1 to 1.
        width: Width of the lines in inches.
        letters: The font.
    """
    texts = [shortened(letters.drawable(text)) for text in row.texts]
    if row.right_to_left:
        texts = [text.translate(_MIRRORED) if _is_brackets(text) else text for text in texts]
    colours = list(white_to_red(strengths))
    inks: list[Any] = [
        grey_ink(colour) if special else ink(colour)
        for colour, special in zip(colours, row.special, strict=True)
    ]
    if row.repeated:
        texts.append(f"×{row.repeated + 1}")
        colours.append((1.0, 1.0, 1.0))
        inks.append(_REPEATS)
    places: list[tuple[float, float, float]] = []
    x = y = 0.0
    for text in texts:
        wide = letters.width(text) + 2 * _INSIDE
        if x and x + wide > width:
            x, y = 0.0, y + _LINE
        places.append((width - x - wide if row.right_to_left else x, y, wide))
        x += wide + _GAP
    used = width if row.right_to_left else max(x + wide for x, _, wide in places)
    return Paragraph(places, texts, colours, inks, used, y + _LINE, letters)


def _is_brackets(text: str) -> bool:
    return all(ord(character) in _MIRRORED for character in text)
