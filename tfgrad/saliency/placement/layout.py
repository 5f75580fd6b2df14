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
from tfgrad.saliency.placement.positions import Planes, Positions, of_input
from tfgrad.saliency.placement.walk import Walk


@dataclasses.dataclass(frozen=True, eq=False)
class Placements:
    """What is known of a network at one size of inputs.

    Attributes:
        grids: {name of a tensor: its placement, None if it could not be found}.
        seen: Where the logits depend on the input, of the shape of a map; None if that is
            everywhere.
    """

    grids: Mapping[str, Grid | None]
    seen: np.ndarray | None


Laid = Callable[[tf.Tensor], tf.Tensor | None]


def as_it_is(values: tf.Tensor) -> tf.Tensor:
    """How values are laid out that are [B, *cells, C] already, whatever the number of channels."""
    return values


def measured(
    image: tf.Tensor,
    layout: axes.InputAxes,
    tensors: Mapping[str, tuple[tf.Tensor, Laid]],
    outputs: Sequence[tf.Tensor],
) -> Placements:
    """Run a graph on coordinates.

    Args:
        image: The images, series or volumes of a graph, [None, …].
        layout: Their axes.
        tensors: {name: (a tensor of the graph, a function that lays its values out as [B, *cells,
            C] or returns None if they have no grid)}.
        outputs: The logits.
    """
    # Graphs, tapes and scopes of the caller are local to its thread.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(_measured, image, layout, tensors, outputs).result()


def _measured(
    image: tf.Tensor,
    layout: axes.InputAxes,
    tensors: Mapping[str, tuple[tf.Tensor, Laid]],
    outputs: Sequence[tf.Tensor],
) -> Placements:
    lengths = layout.sizes(image.shape.as_list())
    start = of_input(lengths, 1 if layout.channels is None else image.shape[layout.channels])
    if layout.channels != layout.rank - 1:
        start = start.of(layout.as_given(start.every_channel()))
    seen: list[tf.Tensor] = []
    with tf.GradientTape() as tape:
        tape.watch(start.columns)
        walk = Walk({id(image): start}, seen, operations.outputs)
        found = walk.run([*(tensor for tensor, _ in tensors.values()), *outputs])
        walk.sees(found[len(tensors) :])
        total = tf.add_n(seen) if seen else tf.zeros([], tf.float64)
    grids = _Grids(lengths, start.held)
    for (name, (tensor, laid)), value in zip(tensors.items(), found, strict=False):
        grids.add(name, tensor, laid, value)
    with additional_derivatives():  # of resizing in float64, and by areas
        slopes = tape.gradient(total, start.columns, unconnected_gradients="zero")
    gradient = tf.convert_to_tensor(slopes)  # that of a gather is tf.IndexedSlices
    visible = layout.channels_last(gradient).numpy()[start.held.any].sum((0, -1)) > 0
    mask = None if visible.all() or not visible.any() else visible
    return Placements(grids.found, mask)


class _Grids:
    """The grids of a network's tensors, in the order of its calls."""

    def __init__(self, lengths: Sequence[int], held: Planes) -> None:
        self.found: dict[str, Grid | None] = {}
        self._lengths, self._held = lengths, held
        self._last: dict[tuple[int, ...], list[Grid]] = {}
        self._fitted: dict[int, tuple[tf.Tensor, Grid | None]] = {}  # by the id of the columns

    def add(self, name: str, tensor: tf.Tensor, laid: Laid, value: Any) -> None:
        """Place a tensor; one without places is laid where the last one of its size is."""
        if isinstance(value, Positions):
            # All channels of a column are at the same place.
            grid = value.columns if laid is as_it_is else laid(value.every_channel())
        elif tensor.shape.rank and None not in tensor.shape[1:]:
            grid = laid(tf.zeros([self._held.count, *tensor.shape[1:]], tf.float64))
        else:
            grid = None
        self.found[name] = None
        if grid is None:
            return
        size = tuple(grid.shape[1:-1])
        known = self._last.setdefault(size, [])
        own = self._own(grid)
        if own is None:
            self.found[name] = known[-1] if known else None
            return
        same = next((other for other in known if other.is_near(own)), own)
        self._last[size] = [*(k for k in known if k is not same), same]
        self.found[name] = same

    def _own(self, cells: tf.Tensor) -> Grid | None:
        """The grid of coordinates [planes · n, *cells, k], found once for each tensor of them."""
        if id(cells) not in self._fitted:
            self._fitted[id(cells)] = cells, fitted(Positions(cells, self._held), self._lengths)
        return self._fitted[id(cells)][1]
