"""Figures as objects, and a PNG written whole; the only importer of matplotlib with `figures`."""

from __future__ import annotations

import io
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BYTES = 300_000
# Dots per inch and colours: a large grid of photographs gets coarser until it is small enough.
_QUALITIES = ((110, None), (110, 256), (80, 256), (60, 256), (45, 256), (45, 32))


def new_figure(size: tuple[float, float], layout: str | None = None) -> Figure:
    """An empty white figure of a size in inches, apart from `matplotlib.pyplot`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib, which is not installed. Try: pip install 'tfgrad[figures]'"
        ) from error
    figure = Figure(figsize=size, dpi=110, layout=layout, facecolor="white")  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def write(figure: Figure, path: str | os.PathLike[str]) -> str:
    """Write a figure as a PNG of at most `MAX_BYTES` where that is possible; returns the path.

    Raises:
        ArgumentError: the path cannot be written.
    """
    path = os.fspath(path)
    temporary = f"{path}.tmp-{os.getpid()}-{threading.get_ident()}"
    try:
        for dpi, colours in _QUALITIES:
            content = _png(figure, dpi, colours)
            if len(content) <= MAX_BYTES:
                break
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        raise ArgumentError(
            f"path: {path!r} cannot be written ({error.strerror}). Choose a file in an existing "
            "directory."
        ) from error
    finally:
        with suppress(OSError):
            os.remove(temporary)
    return path


def _png(figure: Figure, dpi: int, colours: int | None) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    if colours is not None:
        from PIL import Image  # comes with matplotlib

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

    Raises:
        ArgumentError: they are no numbers, or not all finite.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name}: got {type(values).__name__}, expected numbers.") from error
    if not np.isfinite(array).all():
        raise ArgumentError(f"{name}: got NaN or infinite values, which have no colour.")
    return array
