"""Where the cells of a network's feature maps lie on the image."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.gradients import axes
from tfgrad.internal.derivatives import additional_derivatives
from tfgrad.saliency.placement import operations
from tfgrad.saliency.placement.fitting import fitted
from tfgrad.saliency.placement.grids import Grid
from tfgrad.saliency.placement.positions import ANY, PLANES, Positions, of_image
from tfgrad.saliency.placement.walk import Walk


@dataclasses.dataclass(frozen=True, eq=False)
class Placements:
    """What is known of a network at one size of images.

    Attributes:
        grids: {name of a tensor: its placement, None if it could not be found}.
        seen: Where the logits depend on the image, [H, W]; None if that is everywhere.
    """

    grids: Mapping[str, Grid | None]
    seen: np.ndarray | None


Laid = Callable[[tf.Tensor], tf.Tensor | None]


def measured(
    image: tf.Tensor,
    channel_axis: int,
    tensors: Mapping[str, tuple[tf.Tensor, Laid]],
    outputs: Sequence[tf.Tensor],
) -> Placements:
    """Run a graph on coordinates.

    Args:
        image: The images of a graph, [None, H, W, C].
        channel_axis: The axis of C: 1, 2 or 3.
        tensors: {name: (a tensor of the graph, a function that lays its values out as [B, h, w, C]
            or returns None if they have no grid)}.
        outputs: The logits.
    """
    # Graphs, tapes and scopes of the caller are local to its thread.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(_measured, image, channel_axis, tensors, outputs).result()


def _measured(
    image: tf.Tensor,
    channel_axis: int,
    tensors: Mapping[str, tuple[tf.Tensor, Laid]],
    outputs: Sequence[tf.Tensor],
) -> Placements:
    lengths = image.shape.as_list()[1:]
    channels = lengths.pop(channel_axis - 1)
    start = of_image(lengths[0], lengths[1], channels)
    if channel_axis != 3:
        start = Positions(axes.channels_at(start.every_channel(), channel_axis))
    seen: list[tf.Tensor] = []
    with tf.GradientTape() as tape:
        tape.watch(start.columns)
        walk = Walk({id(image): start}, seen, operations.outputs)
        found = walk.run([*(tensor for tensor, _ in tensors.values()), *outputs])
        walk.sees(found[len(tensors) :])
        total = tf.add_n(seen) if seen else tf.zeros([], tf.float64)
    grids = _Grids(*lengths)
    for (name, (tensor, laid)), value in zip(tensors.items(), found, strict=False):
        grids.add(name, tensor, laid, value)
    with additional_derivatives():  # of resizing in float64, and by areas
        slopes = tape.gradient(total, start.columns, unconnected_gradients="zero")
    gradient = tf.convert_to_tensor(slopes)  # that of a gather is tf.IndexedSlices
    visible = axes.channels_last(gradient, channel_axis).numpy()[ANY].sum((0, -1)) > 0
    mask = None if visible.all() or not visible.any() else visible
    return Placements(grids.found, mask)


class _Grids:
    """The grids of a network's tensors, in the order of its calls."""

    def __init__(self, height: int, width: int) -> None:
        self.found: dict[str, Grid | None] = {}
        self._size = height, width
        self._last: dict[tuple[int, ...], list[Grid]] = {}

    def add(self, name: str, tensor: tf.Tensor, laid: Laid, value: Any) -> None:
        """Place a tensor; one without places is laid where the last one of its size is."""
        if isinstance(value, Positions):
            grid = laid(value.every_channel())
        elif tensor.shape.rank and None not in tensor.shape[1:]:
            grid = laid(tf.zeros([PLANES, *tensor.shape[1:]], tf.float64))
        else:
            grid = None
        self.found[name] = None
        if grid is None:
            return
        known = self._last.setdefault(tuple(grid.shape[1:3]), [])
        own = fitted(Positions(grid), *self._size)
        if own is None:
            self.found[name] = known[-1] if known else None
            return
        same = next((other for other in known if other.is_near(own)), own)
        self._last[tuple(grid.shape[1:3])] = [*(k for k in known if k is not same), same]
        self.found[name] = same
