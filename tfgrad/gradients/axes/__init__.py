"""Which axes of images, feature maps and tokens are height, width and channels."""

from tfgrad.gradients.axes.calls import BATCH, Call, Features, NetworkAxes, analysed
from tfgrad.gradients.axes.formats import channels_last, default_axis
from tfgrad.gradients.axes.images import channel_axis
from tfgrad.gradients.axes.labels import Grid

__all__ = [
    "BATCH",
    "Call",
    "Features",
    "Grid",
    "NetworkAxes",
    "analysed",
    "channel_axis",
    "channels_last",
    "default_axis",
]
