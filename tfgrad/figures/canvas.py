"""Figures as objects, shown by notebooks or written as PNG files; the only importer of matplotlib.

A figure's file appears whole or not at all. Figures do not use `matplotlib.pyplot`: the caller's
backend, styles and open figures are unaffected, and no display is needed. matplotlib is imported
when a figure is drawn, so that the package works without it.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.internal import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure

MAX_BYTES = 300_000
FONT = "DejaVu Sans"  # which matplotlib contains
# Dots per inch and number of colours: a large grid of photographs is written more coarsely until it
# is small enough.
_QUALITIES = ((110, None), (110, 256), (80, 256), (60, 256), (45, 256), (45, 32))
# Text is compressed without dithering, and remains legible down to the last of these.
_TEXT_QUALITIES = ((110, None), (110, 256), (110, 48), (90, 48), (75, 32), (60, 32))
_MISSING = "Pictures need matplotlib, which is not installed. Try: pip install 'tfgrad[figures]'"


def new_figure(size: tuple[float, float], layout: str | None = None) -> Figure:
    """An empty white figure, independent of `matplotlib.pyplot`.

    Args:
        size: Width and height in inches.
        layout: A layout engine of matplotlib; None places nothing by itself.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        kind = _picture_class()
    except ImportError as error:
        raise ImportError(_MISSING) from error
    figure = kind(figsize=size, dpi=110, layout=layout, facecolor="white")  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


@functools.cache
def _picture_class() -> type[Figure]:
    """A figure that notebooks show, also if `matplotlib.pyplot` was never imported."""
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure with a PNG for notebooks."""

        def _repr_png_(self) -> bytes:
            return _png(self, 110, None)

    return Picture


def colour_map(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """A colour map of matplotlib: values in 0 to 1, […] → colours with opacity, […, 4].

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return colormaps[name]


class Letters:
    """Text in one size: what the font can draw, and how wide it is.

    Args:
        size: Size in points.
        font: The name of a font that is tried before matplotlib's own; None for that alone.

    Raises:
        ArgumentError: The font is not installed.
        ImportError: matplotlib is not installed.
    """

    def __init__(self, size: float, font: str | None = None) -> None:
        try:
            from matplotlib import font_manager
            from matplotlib.ft2font import FT2Font
        except ImportError as error:
            raise ImportError(_MISSING) from error
        self.size = size
        self.families = [FONT] if font is None else [font, FONT]
        try:
            paths = [font_manager.findfont(f, fallback_to_default=False) for f in self.families]
        except ValueError as error:
            raise ArgumentError(
                f"font: got {font!r}, which matplotlib does not find; expected the name of an "
                "installed font; try matplotlib.font_manager.get_font_names()."
            ) from error
        self._fonts = [FT2Font(path) for path in paths]
        self._properties = font_manager.FontProperties(family=self.families, size=size)
        self._renderer = new_figure((1, 1)).canvas.get_renderer()  # type: ignore[attr-defined]
        self._widths: dict[str, float] = {}

    def drawable(self, text: str) -> str:
        """The text with escapes in the places of characters that the font lacks."""
        return "".join(
            character
            if any(font.get_char_index(ord(character)) for font in self._fonts)
            else escaped(character)
            for character in text
        )

    def width(self, text: str) -> float:
        """The width of a text in one line, in inches."""
        if text not in self._widths:
            wide, *_ = self._renderer.get_text_width_height_descent(text, self._properties, False)
            self._widths[text] = wide / self._renderer.dpi
        return self._widths[text]


def escaped(character: str) -> str:
    """A character as Python writes it in ASCII."""
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def finished(figure: Figure, path: str | os.PathLike[str] | None, is_text: bool = False) -> Figure:
    """The figure, which is written if there is a path.

    Args:
        figure: What was drawn.
        path: The PNG file, or None.
        is_text: Whether it consists of text, which has to be legible.

    Raises:
        WriteError: The path cannot be written.
    """
    if path is not None:
        write(figure, path, is_text)
    return figure


def write(figure: Figure, path: str | os.PathLike[str], is_text: bool = False) -> str:
    """Write a figure as a PNG of at most `MAX_BYTES` where that is possible; returns the path.

    Raises:
        WriteError: The path cannot be written.
    """
    path = os.fspath(path)
    try:
        files.write_bytes(path, png(figure, is_text))
    except OSError as error:
        raise files.cannot_write(error, "path", path) from error
    return path


def png(figure: Figure, is_text: bool = False) -> bytes:
    """A figure as the content of a PNG file, of at most `MAX_BYTES` where that is possible."""
    for dpi, colours in _TEXT_QUALITIES if is_text else _QUALITIES:
        content = _png(figure, dpi, colours, dither=not is_text)
        if len(content) <= MAX_BYTES:
            break
    return content


def _png(figure: Figure, dpi: int, colours: int | None, dither: bool = True) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    if colours is not None:
        from PIL import Image  # a requirement of matplotlib

        picture = Image.open(content).convert("RGB")
        palette = picture.quantize(colours)
        entries = np.array(palette.getpalette() or [], np.uint8).reshape(-1, 3)
        lightest = entries.min(1)
        entries[lightest >= min(245, lightest.max())] = 255  # the background stays white
        palette.putpalette(entries.ravel().tolist())
        content = io.BytesIO()
        method = Image.Dither.FLOYDSTEINBERG if dither else Image.Dither.NONE
        picture.quantize(palette=palette, dither=method).save(content, format="png", optimize=True)
    return content.getvalue()


def finite(values: ArrayLike, name: str) -> np.ndarray:
    """The values as float64.

    Args:
        values: The argument.
        name: Name of the argument, for the message.

    Raises:
        ArgumentError: The values are not numbers, or not all finite.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name}: got {type(values).__name__}; expected numbers.") from error
    if not np.isfinite(array).all():
        raise ArgumentError(
            f"{name}: got NaN or infinite values, which have no colour; expected finite numbers."
        )
    return array
