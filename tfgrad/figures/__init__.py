"""Figures as PNG files: grids of images and maps, curves and bars."""

from tfgrad.figures.canvas import MAX_BYTES
from tfgrad.figures.colouring import SCALES, SEQUENTIAL
from tfgrad.figures.curves_and_bars import bars, curves, functions, history
from tfgrad.figures.image_grids import grid
from tfgrad.figures.map_grids import saliency_grid

__all__ = [
    "MAX_BYTES",
    "SCALES",
    "SEQUENTIAL",
    "bars",
    "curves",
    "functions",
    "grid",
    "history",
    "saliency_grid",
]
