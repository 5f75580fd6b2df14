"""Convolution, pooling and transposed convolution: means over windows of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.gradients import axes
from tfgrad.saliency.placement.positions import Pads, Positions, pooled, transposed
from tfgrad.saliency.placement.walk import Walk

_CONVOLUTIONS = ("Conv2D", "Conv3D")


def window(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """Convolution and pooling of two or three axes."""
    kind, first = operation.type, _channels_first(operation)
    if kind in _CONVOLUTIONS or kind == "DepthwiseConv2dNative":
        size, channels = operation.inputs[1].shape[:-2].as_list(), operation.inputs[1].shape[-1]
        steps = operation.get_attr("dilations")
    else:
        size, channels, steps = operation.get_attr("ksize"), None, [1] * 5
        size = size[2:] if first else size[1:-1]
    if not isinstance(inputs[0], Positions) or None in size:
        return None
    strides = operation.get_attr("strides")
    strides, steps = (v[2:] if first else v[1 : 1 + len(size)] for v in (strides, steps))
    steps = steps[: len(size)]
    window = [(n - 1) * step + 1 for n, step in zip(size, steps, strict=True)]
    cells = _channels_last(inputs[0]) if first else inputs[0]
    pads = _pads(operation, cells.shape[1:-1], window, strides, first)
    gain = 1.0
    if kind in _CONVOLUTIONS:
        gain = walk.gain(operation.inputs[1], channels)
        cells = cells.of(cells.average([len(size) + 1]).columns, channels)
    elif kind == "DepthwiseConv2dNative":
        gain = walk.gain(operation.inputs[1], channels * cells.shape[-1])
        cells = cells.of(cells.columns, cells.repeats * channels)
    elif kind in ("AvgPool", "AvgPool3D"):
        gain = 1 / float(np.prod(window))
    cells = pooled(cells, window, strides, pads).times(gain)
    return [_channels_ahead(cells) if first else cells] + [None] * (len(operation.outputs) - 1)


def _pads(
    operation: tf.Operation,
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    first: bool,
) -> Pads:
    """The padding of an axis of each length, in cells before and after it."""
    kind = operation.get_attr("padding")
    if kind == b"EXPLICIT":
        flat = operation.get_attr("explicit_paddings")
        flat = flat[4:] if first else flat[2:6]
        return [(flat[0], flat[1]), (flat[2], flat[3])]
    if kind == b"VALID":
        return [(0, 0)] * len(size)
    pads = []
    for length, w, stride in zip(size, window, strides, strict=True):
        total = max((-(-length // stride) - 1) * stride + w - length, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def transposed_window(walk: Walk, operation: tf.Operation, inputs: list[Any]) -> list[Any] | None:
    """Transposed convolution, with the kernel of the convolution that it transposes."""
    first = _channels_first(operation)
    filters, cells = operation.inputs[1], inputs[2]
    size = walk.number(operation.inputs[0])
    size = operation.outputs[0].shape.as_list() if size is None else list(size)
    size = size[2:] if first else size[1:-1]
    window = filters.shape[:-2].as_list()
    if not isinstance(cells, Positions) or None in (*size, *window):
        return None
    steps, strides = (
        v[2:] if first else v[1:-1]
        for v in (operation.get_attr("dilations"), operation.get_attr("strides"))
    )
    window = [(n - 1) * step + 1 for n, step in zip(window, steps, strict=True)]
    pads = _pads(operation, size, window, strides, first)
    cells = _channels_last(cells) if first else cells
    channels = filters.shape[-2]
    gain = walk.gain(filters, (channels or 1) * int(np.prod(strides)))
    cells = cells.of(cells.average([len(window) + 1]).columns, channels or 1).times(gain)
    cells = transposed(cells, window, strides, [pad[0] for pad in pads], [int(n) for n in size])
    return [_channels_ahead(cells) if first else cells]


def _channels_first(operation: tf.Operation) -> bool:
    return operation.get_attr("data_format").startswith(b"NC")


def _channels_last(cells: Positions) -> Positions:
    return cells.of(axes.channels_last(cells.every_channel(), 1))


def _channels_ahead(cells: Positions) -> Positions:
    return cells.of(axes.channels_at(cells.every_channel(), 1))
