"""Batches with the maps that a test ranks: of a method, of arrays in order, or noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.evaluation.batches import Placed
from tfgrad.evaluation.map_tests.pixel_removal import RANDOM, comparable
from tfgrad.evaluation.parts import part_of
from tfgrad.gradients.targets import Target
from tfgrad.internal.stateless_noise import Draws
from tfgrad.saliency import asked


def checked_maps(maps: Any) -> Any:
    """Maps as a function, as {input: something sliced like an array}, such a thing, or `RANDOM`.

    Raises:
        ArgumentError: `maps` is another string.
    """
    if isinstance(maps, str) and maps != RANDOM:
        raise ArgumentError(
            f"maps: got {maps!r}; expected a function of (images, labels), an array "
            f"[n, H, W], or {RANDOM!r}. Try tfgrad.saliency.get(name)(model)."
        )
    if isinstance(maps, Mapping):
        return {key: checked_maps(one) for key, one in maps.items()}
    as_it_is = isinstance(maps, str) or callable(maps) or hasattr(maps, "shape")
    return maps if as_it_is else np.asarray(maps)


def mapped(
    batches: Iterator[Placed],
    maps: Any,
    seed: int,
    network: Any = None,
    *,
    target: Target | None = None,
    inputs: Any = None,
) -> Iterator[Placed]:
    """Batches ((images, maps), labels, index of the first), with maps computed on the way.

    Maps keep their own floating type; integers become float64. Of several inputs they are those of
    one.

    Args:
        batches: Batches (images, labels, index of the first).
        maps: See `checked_maps`.
        seed: Seed of `RANDOM`.
        network: The network that takes the images; it tells their positions and channels.
        target: What a function of (images, target) is asked; the labels then are its values.
        inputs: The input whose maps these are; see `part_of`.

    Raises:
        ArgumentError: Maps do not fit the images in shape or number.
    """
    read = 0
    for x, y, first in batches:
        part = part_of(x, maps, inputs)
        if isinstance(maps, Mapping) and part.key is None:
            raise ArgumentError(
                f"maps: got a mapping of {list(maps)}; expected those of one method, a function of "
                "(images, labels) or an array [n, H, W]."
            )
        given = part.of_maps(maps, x) if isinstance(maps, Mapping) else maps
        own = part.of(x)
        axes = part.axes(network, x)
        read += own.shape[0]
        if isinstance(given, str):
            like = own if axes.channels is None else tf.gather(own, 0, axis=axes.channels)
            like = like if like.dtype.is_floating else tf.cast(like, tf.float32)
            found = Draws(0, first).normal(like, 1, seed)[0]
        elif callable(given):
            asks = y if target is None else asked.with_tensors(target, y)
            found = part.of_maps(given(x, asks), x, given)
        else:
            found = given[int(first) : read]
        found = tf.convert_to_tensor(found)
        expected = (own.shape[0], *part.axes(network, x, found).sizes(own.shape))
        if tuple(found.shape) != expected:
            raise ArgumentError(
                f"maps: got shape {tuple(found.shape)} for images {tuple(own.shape)}; expected "
                f"{expected}. An array needs a map for every image; sum a gradient over its "
                "channels first."
            )
        yield (x, comparable(found)), y, first
    for one in maps.values() if isinstance(maps, Mapping) else [maps]:
        if not isinstance(one, str) and not callable(one) and len(one) != read:
            raise ArgumentError(f"maps: got {len(one)} for {read} images; expected one each.")
