"""Figures for notebooks and PNG files: images, series, volumes and their maps, curves, bars."""

from tfgrad.figures.canvas import MAX_BYTES
from tfgrad.figures.colouring import SCALES, SEQUENTIAL
from tfgrad.figures.curves_and_bars import bars, curves, functions, history
from tfgrad.figures.image_grids import grid
from tfgrad.figures.map_grids import saliency_grid
from tfgrad.figures.series import saliency_series
from tfgrad.figures.several_inputs import saliency_of_inputs
from tfgrad.figures.tables import saliency_bars
from tfgrad.figures.token_page import tokens_html
from tfgrad.figures.token_texts import SPECIAL
from tfgrad.figures.tokens import saliency_tokens
from tfgrad.figures.volumes import saliency_slices

__all__ = [
    "MAX_BYTES",
    "SCALES",
    "SEQUENTIAL",
    "SPECIAL",
    "bars",
    "curves",
    "functions",
    "grid",
    "history",
    "saliency_bars",
    "saliency_grid",
    "saliency_of_inputs",
    "saliency_series",
    "saliency_slices",
    "saliency_tokens",
    "tokens_html",
]
