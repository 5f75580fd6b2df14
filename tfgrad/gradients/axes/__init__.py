"""Which axes of inputs, feature maps and tokens are positions and which are channels."""

from tfgrad.gradients.axes.calls import BATCH, Call, Features, NetworkAxes, analysed
from tfgrad.gradients.axes.formats import (
    InputAxes,
    channels_at,
    channels_last,
    default_axis,
    with_shape,
)
from tfgrad.gradients.axes.images import channel_axis, of_input
from tfgrad.gradients.axes.labels import Grid
from tfgrad.gradients.axes.layouts import Layouts

__all__ = [
    "BATCH",
    "Call",
    "Features",
    "Grid",
    "InputAxes",
    "Layouts",
    "NetworkAxes",
    "analysed",
    "channel_axis",
    "channels_at",
    "channels_last",
    "default_axis",
    "of_input",
    "with_shape",
]
