"""Token sequences as coloured text in HTML, for pages and notebooks; needs no matplotlib."""

from __future__ import annotations

import html
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.figures.captions import BLACK, RIGHT, WRONG, Captions
from tfgrad.figures.colouring import SCALES, scaled
from tfgrad.figures.token_texts import SPECIAL, TokenRow, readable, token_maps
from tfgrad.internal import files
from tfgrad.internal.arguments import one_of

_KINDS = {BLACK: "", RIGHT: ' class="right"', WRONG: ' class="wrong"'}
_STRONGEST = 0.6  # opacity, on which black and white text are both legible
_RED, _BLUE = "178 24 43", "33 102 172"
# Colours are laid over the page's own, light or dark, whose text colour is kept.
_STYLE = """<style>
.tfgrad-tokens { font: 1rem/1.9 system-ui, sans-serif; }
.tfgrad-tokens ol { list-style: none; margin: 0; padding: 0; }
.tfgrad-tokens li { display: inline; unicode-bidi: isolate; white-space: pre-wrap;
  padding: .15em .25em; border-radius: .2em; overflow-wrap: anywhere;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.tfgrad-tokens h3, .tfgrad-tokens h4 { font-size: 1em; margin: 1em 0 0; }
.tfgrad-tokens h4 { font-weight: normal; opacity: .75; margin-top: .3em; }
.tfgrad-tokens .special bdi { opacity: .75; }
.tfgrad-tokens .right { color: light-dark(#1a7f37, #4ac26b); }
.tfgrad-tokens .wrong { color: light-dark(#c62828, #ff7b72); }
.tfgrad-tokens .value { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap; user-select: none; }
</style>"""
_PAGE = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
</head>
<body>
{body}
</body>
</html>
"""


class Html(str):
    """HTML that a notebook shows."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


def tokens_html(
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
    title: str | None = None,
) -> Html:
    """Token sequences as coloured text in HTML, with the value of each token.

    The text of a page: no script, no picture, nothing that is loaded, and every text is escaped.
    Colours are laid over those of the page, light or dark: red above zero, blue below, and none at
    zero. The value of a token is its `title`, and part of the text that a screen reader reads.
    Scripts of any language are shown; each token is isolated, so that its direction does not
    reorder the others.

    Args:
        path: The HTML file to write, a page of its own; None writes none.
        tokens, maps: See `saliency_tokens`.
        labels, predictions, probabilities, notes: See `saliency_grid`; one line for each example.
        special, magnitude, scale: See `saliency_tokens`.
        title: A heading.

    Returns:
        One `<div>` with its style, a `str` that a notebook shows.

    Raises:
        ArgumentError: Tokens are no texts, shapes do not fit, a value is NaN or infinite, or an
            option does not exist.
        WriteError: The path cannot be written.
    """
    one_of("scale", scale, SCALES)
    rows, values = token_maps(tokens, maps, special, magnitude)
    captions = Captions(labels, predictions, probabilities, notes, len(rows))
    signed = {name: any((one < 0).any() for one in found) for name, found in values.items()}
    parts = [_STYLE]
    if title:
        parts.append(f"<h2>{_escaped(title)}</h2>")
    for i, row in enumerate(rows):
        if captions.text(i):
            text = _escaped(captions.text(i).replace("\n", " · "))
            parts.append(f"<h3{_KINDS[captions.colour(i)]}>{text}</h3>")
        for name, found in values.items():
            parts.append(f'<h4 dir="auto">{_escaped(name)}</h4>')
            strengths = scaled(found[i], signed[name], scale)
            parts.append(_tokens(row, found[i], strengths, f"{name}, example {i}"))
    content = Html('<div class="tfgrad-tokens">' + "\n".join(parts) + "</div>")
    if path is not None:
        page = _PAGE.format(title=_escaped(title or "Saliency of tokens"), body=content)
        path = os.fspath(path)
        try:
            files.write_bytes(path, page.encode("utf-8"))
        except OSError as error:
            raise files.cannot_write(error, "path", path) from error
    return content


def _tokens(row: TokenRow, values: np.ndarray, strengths: np.ndarray, label: str) -> str:
    """The tokens of an example as a list."""
    direction = "rtl" if row.right_to_left else "ltr"
    items = []
    for text, special, value, strength in zip(
        row.texts, row.special, values, strengths, strict=True
    ):
        opacity = round(_STRONGEST * abs(float(strength)), 3)
        colour = _RED if strength > 0 else _BLUE
        style = f' style="background:rgb({colour}/{opacity:g})"' if opacity else ""
        kind = ' class="special"' if special else ""
        number = f"{value:.3g}"
        items.append(
            f'<li{kind} title="{number}"{style}><bdi>{html.escape(text)}</bdi>'
            f'<span class="value"> {number}</span></li>'
        )
    if row.repeated:
        items.append(f'<li class="special"><bdi dir="ltr">×{row.repeated + 1}</bdi></li>')
    name = _escaped(label)
    return f'<ol role="list" dir="{direction}" aria-label="{name}">' + "\n".join(items) + "</ol>"


def _escaped(text: str) -> str:
    return html.escape(readable(text))
