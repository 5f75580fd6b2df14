"""Which axes of images, feature maps and tokens are height, width and channels."""

from tfgrad.gradients.axes.calls import BATCH, Call, Features, NetworkAxes, analysed
from tfgrad.gradients.axes.formats import channels_at, channels_last, default_axis
from tfgrad.gradients.axes.images import channel_axis
from tfgrad.gradients.axes.labels import Grid
from tfgrad.gradients.axes.layouts import Layouts

__all__ = [
    "BATCH",
    "Call",
    "Features",
    "Grid",
    "Layouts",
    "NetworkAxes",
    "analysed",
    "channel_axis",
    "channels_at",
    "channels_last",
    "default_axis",
]
