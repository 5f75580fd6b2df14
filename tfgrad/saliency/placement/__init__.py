"""Where the cells of feature maps look: each network's operations run on coordinates."""

from tfgrad.saliency.placement.layout import Axis, Laid, Placement, Placements, measured

__all__ = ["Axis", "Laid", "Placement", "Placements", "measured"]
