"""Maps of the calls that penalties compare: features, attention maps, sizes, pooling.

A map has the positions of its network's input: [batch, height, width] of an image, [batch, time] of
a series, [batch, depth, height, width] of a volume.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tfgrad import losses
from tfgrad.errors import ArgumentError
from tfgrad.gradients import axes
from tfgrad.gradients.probe import Probe
from tfgrad.layers.resizing import resize_axis

_FORMS = {
    3: "[batch, time, channels]",
    4: "[batch, height, width, channels]",
    5: "[batch, depth, height, width, channels]",
}


def features(probe: Probe, call: str) -> tf.Tensor:
    """The output of a call, [batch, *positions, channels], channels last in any network.

    Raises:
        ArgumentError: There was no such call, or its output is no map with one entry per example.
    """
    if call not in probe.layer_outputs:
        raise ArgumentError(
            f"layers: got {call!r}, which network {probe.network.name!r} did not call at top level "
            f"of this pass; expected one of {list(probe.layer_outputs)}."
        )
    return laid_out(probe, call, probe.layer_outputs[call])


def laid_out(probe: Probe, call: str, values: Any, what: str = "outputs") -> tf.Tensor:
    """Values shaped like a call's output as maps, with channels last.

    Args:
        probe: The probe that recorded the call.
        call: The call's name.
        values: The values.
        what: The noun that messages use for them.

    Raises:
        ArgumentError: The output is no map with one entry per example: it has no positions, or is
            windows on the batch axis, or attention scores.
    """
    layouts = axes.Layouts(probe.network, probe.x)
    rank = len(layouts.input.positions) + 2
    found = None
    if tf.is_tensor(values) and values.shape.rank > 2:
        found = layouts.map_of(call, values)
    if found is not None and found.shape.rank == rank:
        return found
    shape = getattr(values, "shape", type(values).__name__)
    got = f"layers: got {call!r} of network {probe.network.name!r}, which has {what} of shape"
    expected = f"expected maps {_FORMS.get(rank, '[batch, positions, channels]')}"
    if not tf.is_tensor(values) or values.shape.rank != rank:
        raise ArgumentError(
            f"{got} {shape}; {expected}. Name a convolution, an activation or a pooling layer "
            "before the network flattens."
        )
    if not any(t.dtype.is_floating for t in tf.nest.flatten(probe.x)):
        raise ArgumentError(
            f"{got} {tuple(shape)} behind token ids; expected a network of floats, whose axes can "
            "be followed; try the part behind the embedding, on its outputs."
        )
    raise ArgumentError(
        f"{got} {tuple(shape)}; {expected} with one entry per example, which windows and "
        "attention scores are not; try the layer around it."
    )


def attention(probe: Probe, call: str, power: float) -> tf.Tensor:
    """The attention map of a call, [batch, *positions]."""
    return losses.attention_map(features(probe, call), power)


def known_sides(probe: Probe, call: str) -> list[int]:
    """The lengths of the positions of a call's output: [height, width], or [time].

    Raises:
        ArgumentError: One of them is unknown while the pass is traced.
    """
    sides = list(features(probe, call).shape[1:-1])
    if None in sides:
        raise ArgumentError(
            f"layers: got {call!r}, whose map has the unknown size {tuple(sides)}; expected a "
            "known one. Give the network inputs of fixed size."
        )
    return sides


def size_carrier(probe: Probe, call: str) -> tf.Tensor:
    """An empty tensor [batch, 0, *positions] whose shape tells the size of a call's map.

    Answers of a teacher must have a batch axis, so the size alone cannot be one.
    """
    maps = features(probe, call)
    return tf.zeros([tf.shape(maps)[0], 0, *known_sides(probe, call)], maps.dtype)


def of_one_size(
    student: tf.Tensor, teacher: tf.Tensor, pair: tuple[str, str]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Two maps [batch, *positions], the smaller resized (linearly along every axis) to the larger.

    Raises:
        ArgumentError: Neither is the smaller one, a size is unknown, or they differ in their number
            of axes.
    """
    sizes = tuple(student.shape[1:]), tuple(teacher.shape[1:])
    if sizes[0] == sizes[1]:
        return student, teacher
    got = f"layers: got {pair}, whose maps have sizes {sizes[0]} and {sizes[1]}"
    if None in sizes[0] + sizes[1]:
        raise ArgumentError(
            f"{got}; expected known sizes, which resizing needs. Give both networks inputs of "
            "fixed size."
        )
    if len(sizes[0]) != len(sizes[1]):
        raise ArgumentError(
            f"{got}; expected maps of one kind, as both networks take the same inputs; try a layer "
            "before one of the two changes the axes."
        )
    if all(s <= t for s, t in zip(*sizes, strict=True)):
        return _resized(student, sizes[1]), teacher
    if all(s >= t for s, t in zip(*sizes, strict=True)):
        return student, _resized(teacher, sizes[0])
    raise ArgumentError(
        f"{got}, of which neither is the smaller; expected one that is smaller in all directions, "
        "or equal sizes. tfgrad.penalties.matching_layers(network, teacher) proposes pairs."
    )


def flat(maps: tf.Tensor) -> tf.Tensor:
    """Maps [batch, *positions] as rows, one number per position."""
    return tf.reshape(maps, [tf.shape(maps)[0], math.prod(maps.shape[1:])])


def average_pooled(maps: tf.Tensor, sides: list[int], fraction: float | None) -> tf.Tensor:
    """Maps [batch, *positions], averaged over a window with stride 1 and no padding.

    Args:
        maps: The maps.
        sides: The lengths of the positions.
        fraction: Side of the window as a fraction of the map's; None does not pool.
    """
    window = [_window(fraction, side) for side in sides]
    if set(window) == {1}:
        return maps
    if len(window) < 3:
        return tf.nn.avg_pool(maps[..., tf.newaxis], window, 1, "VALID")[..., 0]
    # One axis after the other: TensorFlow does not pool volumes in float64 on a CPU.
    depth, height, width = sides
    maps = tf.reshape(maps, [-1, depth, height * width])
    maps = tf.nn.avg_pool(maps[..., tf.newaxis], [window[0], 1], 1, "VALID")
    maps = tf.reshape(maps, [-1, height, width, 1])
    maps = tf.nn.avg_pool(maps, window[1:], 1, "VALID")[..., 0]
    return tf.reshape(maps, [-1, depth - window[0] + 1, *maps.shape[1:]])


def _window(fraction: float | None, side: int) -> int:
    return 1 if fraction is None else max(1, min(side, math.floor(fraction * side + 0.5)))


def _resized(maps: tf.Tensor, size: tuple[int, ...]) -> tf.Tensor:
    for axis, length in enumerate(size, 1):
        maps = resize_axis(maps, axis, length, "bilinear")
    return maps
