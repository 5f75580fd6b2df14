"""Where the cells of feature maps look: each network's operations run on coordinates."""

from tfgrad.saliency.placement.grids import Axis, Grid, Placement, Scattered, interpolated
from tfgrad.saliency.placement.layout import Laid, Placements, as_it_is, measured

__all__ = [
    "Axis",
    "Grid",
    "Laid",
    "Placement",
    "Placements",
    "Scattered",
    "as_it_is",
    "interpolated",
    "measured",
]
