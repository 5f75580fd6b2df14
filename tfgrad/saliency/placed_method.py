"""The base class of methods whose maps are made of feature maps: where these lie on the image."""

from __future__ import annotations

import concurrent.futures
import warnings
from collections.abc import Mapping
from typing import Any, Unpack

import tensorflow as tf

from tfgrad.errors import PlacementWarning
from tfgrad.gradients import axes
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import one_of
from tfgrad.saliency import term_layout
from tfgrad.saliency.base import Method
from tfgrad.saliency.options import MethodOptions
from tfgrad.saliency.placement import Grid, Laid, Placements, measured

CELLS, STRETCH = "cells", "stretch"
PLACEMENTS = (CELLS, STRETCH)

# What inputs are called whose maps have so many axes, what a position of one is called, and one.
_KINDS = {
    1: ("series", "steps", "series"),
    2: ("images", "pixels", "image"),
    3: ("volumes", "voxels", "volume"),
}


class Placed(Method):
    """A method that lays feature maps on the input: an image, a series or a volume.

    Args:
        model: See `Method`.
        placement: `"cells"` puts the value of every cell at the middle of the pixels on which the
            cell depends, interpolates between them, and leaves pixels at zero on which nothing
            depends. The places are found once for each size of images, from a run of the network's
            operations on coordinates. Cells without rows and columns on the image, such as
            shuffled ones, are drawn at the pixels to which they are nearest. Cells without a place
            are laid where the last feature map of their size is, or else, as with images whose
            size a graph leaves open, stretched with half-pixel centres. `"stretch"` resizes every
            feature map to the image, wherever its cells look. The same holds along the steps of a
            series and the axes of a volume; axes of a feature map that run along none of them, as
            frequencies do, are added up.
        **options: See `MethodOptions`.

    Warns:
        PlacementWarning: Feature maps are stretched though `placement="cells"`; once for each size
            of images.
    """

    def __init__(
        self,
        model: Any,
        placement: str,
        **options: Unpack[MethodOptions],
    ) -> None:
        self.placement = one_of("placement", placement, PLACEMENTS)
        self._places: dict[tuple[int | None, ...], Placements] = {}
        self._stretched: set[tuple[int | None, ...]] = set()  # sizes of which a warning told
        super().__init__(model, **options)

    @property
    def stretches(self) -> bool:
        """Whether maps of some size were stretched although `placement` is `"cells"`."""
        return bool(self._stretched)

    def positioned(self, probe: Probe) -> Mapping[str, tuple[tf.Tensor, Laid]]:
        """{name: (a tensor of the network, a function that lays it out as [B, *cells, C])}.

        The function returns None for a tensor without a grid.
        """
        raise NotImplementedError(f"{type(self).__name__} has no positioned(probe).")

    def locate(self, probe: Probe, target: Any = None) -> None:
        """Find where the cells of `positioned` lie, if that is not known for this image size."""
        image = self.image(probe)
        size = self.layout_of_main(probe).sizes(image.shape.as_list())
        if self.placement == STRETCH or None in size or size in self._places:
            return
        here = not tf.executing_eagerly() and image.graph is tf.compat.v1.get_default_graph()
        if here and image.shape[0] is None:
            self._places[size] = self._measured(probe)
        else:
            self._places[size] = self.located_apart(probe.x, target)

    def layout_of_main(self, probe: Probe) -> axes.InputAxes:
        """The axes of what feature maps are laid on."""
        return self.layouts(probe.differentiated)[self.explained(probe.x).main]

    def located_apart(self, x: Any, target: Any = None) -> Placements:
        """The places in a graph of its own, in which no batch size is fixed.

        Args:
            x: A nest of inputs or specifications, of which only shapes and dtypes are read.
            target: What is explained, of which only the class is read.
        """
        specs = tf.nest.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), x)
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(self._measured_apart, specs, target).result()

    def laid(self, maps: Mapping[str, tf.Tensor], x: tf.Tensor, resize: str) -> tf.Tensor:
        """The sum of maps [B, *cells] at the size of the input, [B, *positions].

        Args:
            maps: {name in `positioned`, or another if it has the size of the image: its map}.
            x: The inputs [B, *positions, C], channels last.
            resize: A key of `term_layout.RESIZE`.
        """
        size = tuple(x.shape[1:-1])
        places = self._places.get(size)
        if self.placement == STRETCH:
            return term_layout.resized_sum(list(maps.values()), x, resize)
        cubic = resize.startswith("bicubic")
        halves = "bicubic_half_pixel" if cubic else "bilinear_half_pixel"
        if places is None:
            self._warn("feature maps", x, "images of fixed size")
            return term_layout.resized_sum(list(maps.values()), x, halves)
        groups: dict[Grid | None, list[tf.Tensor]] = {}
        for name, values in maps.items():
            grid = places.grids.get(name)
            if grid is None and values.shape[1:] != x.shape[1:-1]:
                self._warn(f"the feature map of {name!r}", x, "operations that keep their cells")
            groups.setdefault(grid, []).append(values)
        parts = [
            # Placing is linear: maps of one grid are added first.
            term_layout.resized_sum(group, x, halves)
            if grid is None
            else grid.laid(tf.add_n(group), size, cubic)
            for grid, group in groups.items()
        ]
        total = tf.add_n(parts)
        return total if places.seen is None else total * tf.cast(places.seen, total.dtype)

    def _warn(self, what: str, x: tf.Tensor, expected: str) -> None:
        """Say once for each size of images that maps are stretched."""
        size = tuple(x.shape[1:-1])
        if size in self._stretched:
            return
        self._stretched.add(size)
        what_of, unit, one = _KINDS.get(len(size), _KINDS[3])
        shown = "×".join(str(n or "any") for n in size)
        warnings.warn(
            f"{type(self).__name__} of model {self.network.name!r}: got {what} at {what_of} of "
            f"{shown} {unit}, of which it is not known where the cells look; stretched to "
            f"the {one}; expected {expected}; try placement={STRETCH!r} if that is meant.",
            PlacementWarning,
            stacklevel=2,
        )

    def _measured(self, probe: Probe) -> Placements:
        image = self.image(probe)
        return measured(
            image,
            self.layout_of_main(probe),
            self.positioned(probe),
            tf.nest.flatten(probe.outputs),
        )

    def _measured_apart(self, specs: Any, target: Any) -> Placements:
        found: list[Placements] = []

        def run(x: Any) -> Any:
            probe = self.probe(x, target)
            found.append(self._measured(probe))
            return probe.outputs

        tf.function(run, autograph=False).get_concrete_function(specs)
        return found[0]
