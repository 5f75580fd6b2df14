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
# Dots per inch and number of colours: a large grid of photographs is written more coarsely until it
# is small enough.
_QUALITIES = ((110, None), (110, 256), (80, 256), (60, 256), (45, 256), (45, 32))
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


def finished(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """The figure, which is written if there is a path.

    Raises:
        ArgumentError: The path cannot be written.
    """
    if path is not None:
        write(figure, path)
    return figure


def write(figure: Figure, path: str | os.PathLike[str]) -> str:
    """Write a figure as a PNG of at most `MAX_BYTES` where that is possible; returns the path.

    Raises:
        WriteError: The path cannot be written.
    """
    path = os.fspath(path)
    for dpi, colours in _QUALITIES:
        content = _png(figure, dpi, colours)
        if len(content) <= MAX_BYTES:
            break
    try:
        files.write_bytes(path, content)
    except OSError as error:
        raise files.cannot_write(error, "path", path) from error
    return path


def _png(figure: Figure, dpi: int, colours: int | None) -> bytes:
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
        picture.quantize(palette=palette).save(content, format="png", optimize=True)  # dithers
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
