"""Maps of the calls that penalties compare: features, attention maps, sizes, pooling."""

from __future__ import annotations

import math

import tensorflow as tf

from tfgrad import layers, losses
from tfgrad.errors import ArgumentError
from tfgrad.gradients import axes
from tfgrad.gradients.probe import Probe


def features(probe: Probe, call: str) -> tf.Tensor:
    """The output of a call, [batch, height, width, channels], channels last in any network.

    Raises:
        ArgumentError: There was no such call, or its output is no map with one entry per example.
    """
    if call not in probe.layer_outputs:
        raise ArgumentError(
            f"layers: got {call!r}, which network {probe.network.name!r} did not call at top level "
            f"of this pass; expected one of {list(probe.layer_outputs)}."
        )
    output = probe.layer_outputs[call]
    if not tf.is_tensor(output) or output.shape.rank != 4:
        shape = getattr(output, "shape", type(output).__name__)
        raise ArgumentError(
            f"layers: got {call!r} of network {probe.network.name!r}, which has outputs of shape "
            f"{shape}; expected maps [batch, height, width, channels]. Name a convolution, an "
            "activation or a pooling layer before the network flattens."
        )
    return laid_out(probe, call, output)


def laid_out(probe: Probe, call: str, values: tf.Tensor) -> tf.Tensor:
    """Values shaped like a call's rank-4 output, with channels last.

    Raises:
        ArgumentError: The output is no map with one entry per example: windows on the batch axis,
            or attention scores.
    """
    found = axes.Layouts(probe.network, probe.x).map_of(call, values)
    if found is None:
        raise ArgumentError(
            f"layers: got {call!r} of network {probe.network.name!r}, which has outputs of shape "
            f"{tuple(values.shape)}; expected maps [batch, height, width, channels] with one entry "
            "per example, which windows and attention scores are not; try the layer around it."
        )
    return found


def attention(probe: Probe, call: str, power: float) -> tf.Tensor:
    """The attention map of a call, [batch, height, width]."""
    return losses.attention_map(features(probe, call), power)


def known_sides(probe: Probe, call: str) -> list[int]:
    """[height, width] of a call's output.

    Raises:
        ArgumentError: One of them is unknown while the pass is traced.
    """
    sides = list(features(probe, call).shape[1:3])
    if None in sides:
        raise ArgumentError(
            f"layers: got {call!r}, whose map has the unknown size {tuple(sides)}; expected a "
            "known one. Give the network inputs of fixed size."
        )
    return sides


def size_carrier(probe: Probe, call: str) -> tf.Tensor:
    """An empty tensor [batch, 0, height, width] whose shape tells the size of a call's map.

    Answers of a teacher must have a batch axis, so the size alone cannot be one.
    """
    maps = features(probe, call)
    return tf.zeros([tf.shape(maps)[0], 0, *known_sides(probe, call)], maps.dtype)


def of_one_size(
    student: tf.Tensor, teacher: tf.Tensor, pair: tuple[str, str]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Two maps [batch, height, width], the smaller resized (bilinear) to the larger.

    Raises:
        ArgumentError: Neither is the smaller one, or a size is unknown.
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
    if all(s <= t for s, t in zip(*sizes, strict=True)):
        return _resized(student, sizes[1]), teacher
    if all(s >= t for s, t in zip(*sizes, strict=True)):
        return student, _resized(teacher, sizes[0])
    raise ArgumentError(
        f"{got}, of which neither is the smaller; expected one that is smaller in both directions, "
        "or equal sizes. tfgrad.penalties.matching_layers(network, teacher) proposes pairs."
    )


def flat(maps: tf.Tensor) -> tf.Tensor:
    """Maps [batch, height, width] as rows [batch, height · width]."""
    return tf.reshape(maps, [tf.shape(maps)[0], maps.shape[1] * maps.shape[2]])


def average_pooled(maps: tf.Tensor, sides: list[int], fraction: float | None) -> tf.Tensor:
    """Maps [batch, height, width], averaged over a window with stride 1 and no padding.

    Args:
        maps: The maps.
        sides: [height, width].
        fraction: Side of the window as a fraction of the map's; None does not pool.
    """
    window = [_window(fraction, side) for side in sides]
    if window == [1, 1]:
        return maps
    return tf.nn.avg_pool2d(maps[..., tf.newaxis], window, 1, "VALID")[..., 0]


def _window(fraction: float | None, side: int) -> int:
    return 1 if fraction is None else max(1, min(side, math.floor(fraction * side + 0.5)))


def _resized(maps: tf.Tensor, size: tuple[int, ...]) -> tf.Tensor:
    resize = layers.Resizing(
        *size, interpolation="bilinear", dtype=maps.dtype.name, data_format="channels_last"
    )
    return resize(maps[..., tf.newaxis])[..., 0]
