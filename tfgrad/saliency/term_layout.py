"""Maps of the image's size from the terms of a decomposition: layout, rescaling, resizing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients import axes
from tfgrad.gradients.intercepts import Intercept
from tfgrad.gradients.intercepts.sums import Axes
from tfgrad.saliency.placement import interpolated

_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)

EPSILON = 1e-6  # of the rescaling, as in the authors' code


def on_grid(
    term: Intercept, value: tf.Tensor, image: tf.Tensor, layouts: axes.Layouts
) -> tf.Tensor | None:
    """The value of a term as [B, *cells, C], or None if it has no positions in the input.

    Feature maps are returned with channels last. Tokens [B, n, C] are laid out row by row if they
    are the positions of a feature map; in a network whose tokens are not seen to be made of one,
    if n = h·w with h/w as in the image, after one class token if there is one. Those of a series
    are its steps, without the learned ones that were joined to them. Dense layers, gates
    [B, 1, 1, C], attention scores and learned tokens have no positions.

    Args:
        term: The intercept whose value it is.
        value: Its bias-gradient or gradient, shaped like the call's output.
        image: The inputs [B, *positions, C].
        layouts: The layouts of the network's calls.
    """
    shape = value.shape
    if shape.rank == 4 and isinstance(term.inside, _ATTENTION):
        if not isinstance(term.operation, keras.layers.EinsumDense):
            return None
        if image.shape.rank == 3:
            value = layouts.steps_of(term.name, value)
            shape = value.shape
        value = tf.reshape(value, [-1, shape[1] or tf.shape(value)[1], shape[2] * shape[3]])
        shape = value.shape
        if image.shape.rank == 3:
            return value
    if shape.rank == 4 or image.shape.rank != 4:
        laid_out = layouts.map_of(term.name, value)
        if laid_out is None or all(n == 1 for n in laid_out.shape[1:-1]):
            return None
        return laid_out
    if shape.rank != 3:
        return None
    grids = layouts.grids
    if grids:
        grid = grids.get(shape[1])
        return None if grid is None else axes.Features(None, grid).laid_out(value)
    return _tokens_on_grid(value, image)


def is_on_grid(term: Intercept, image: tf.Tensor, layouts: axes.Layouts) -> bool:
    """Whether `on_grid` returns values of a term as they are."""
    lengths = term.output.shape
    if not (layouts.plain and lengths.rank == image.shape.rank == 4):
        return False
    return not isinstance(term.inside, _ATTENTION) and any(n != 1 for n in lengths[1:-1])


def _tokens_on_grid(value: tf.Tensor, image: tf.Tensor) -> tf.Tensor | None:
    """Tokens [B, n, C] as [B, h, w, C]; None if no grid of the image's aspect ratio has n cells."""
    count, height, width = value.shape[1], image.shape[1], image.shape[2]
    if None in (count, height, width):
        return None
    for special in (0, 1):  # number of tokens before the grid
        h = math.isqrt(max((count - special) * height // width, 0))
        w = (count - special) // h if h else 0
        if h * w == count - special > 1 and h * width == w * height:
            return tf.reshape(value[:, special:], [-1, h, w, value.shape[2]])
    return None


PARTS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "abs": tf.abs,
    "signed": tf.identity,
    "positive": tf.nn.relu,
    "negative": lambda value: tf.nn.relu(-value),
}


# {id of a term: (abs of its entries, their sum over the channels)}; see `TermSums.absolute`.
Absolute = Mapping[int, tuple[tf.Tensor, tf.Tensor]]


def rescaled_sums(
    terms: dict[str, tf.Tensor],
    part: str,
    rescale: str | None,
    known: Absolute | None = None,
) -> dict[str, tf.Tensor]:
    """Σ_c rescale(part(values))_c of every term, [B, *cells, C] → [B, *cells].

    Rescaling subtracts the minimum and divides by maximum − minimum + ε, over all positions and
    channels of an example (`"layer"`) or over the positions of each channel (`"channel"`). Over a
    layer it is an affine function of the values, so the sum over channels is taken first and the
    numbers of all layers are divided at once.

    Args:
        terms: The terms by name.
        part, rescale: See `FullGrad`.
        known: What is known of the absolute values of some terms.
    """
    last = Axes().last()
    of_part = [_summed(values, part, known or {}, last) for values in terms.values()]
    if rescale == "channel":
        return {n: _rescaled_channels(v) for n, (v, _) in zip(terms, of_part, strict=True)}
    if rescale == "layer":
        of_part = _rescaled_layers(of_part)
    return {name: summed for name, (_, summed) in zip(terms, of_part, strict=True)}


def _summed(
    values: tf.Tensor, part: str, known: Absolute, last: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """A part of every entry, and its sum over channels."""
    if part == "abs" and id(values) in known and values.shape.rank > 2:
        return known[id(values)]
    values = PARTS[part](values)
    return values, tf.reduce_sum(values, last)


def _rescaled_layers(
    terms: list[tuple[tf.Tensor, tf.Tensor]],
) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Terms with their sums over channels, of which the sums are rescaled."""
    axes = Axes()
    by_shape: dict[Any, list[int]] = {}
    for i, (_, summed) in enumerate(terms):
        size = tuple(summed.shape[1:])
        by_shape.setdefault(i if None in size else size, []).append(i)
    found = list(terms)
    for alike in by_shape.values():
        every = [terms[i][0] for i in alike]
        low = tf.stack([tf.reduce_min(v, axes.after(1, v)) for v in every])
        high = tf.stack([tf.reduce_max(v, axes.after(1, v)) for v in every])
        channels = tf.cast(tf.stack([v.shape[-1] or tf.shape(v)[-1] for v in every]), low.dtype)
        maps = tf.stack([terms[i][1] for i in alike])
        rank = maps.shape.rank

        def beside(numbers: tf.Tensor, rank: int = rank) -> tf.Tensor:
            return tf.reshape(numbers, [numbers.shape[0], -1] + [1] * (rank - 2))

        added = low * channels[:, tf.newaxis]
        maps = (maps - beside(added)) / beside(high - low + EPSILON)
        for i, summed in zip(alike, tf.unstack(maps), strict=True):
            found[i] = terms[i][0], summed
    return found


def _rescaled_channels(values: tf.Tensor) -> tf.Tensor:
    cells = list(range(1, values.shape.rank - 1))
    low = tf.reduce_min(values, cells, keepdims=True)
    high = tf.reduce_max(values, cells, keepdims=True)
    return tf.reduce_sum((values - low) / (high - low + EPSILON), -1)


RESIZE: dict[str, Callable[[tf.Tensor, Any], tf.Tensor]] = {
    "bilinear": lambda maps, size: tf.raw_ops.ResizeBilinear(
        images=maps, size=size, align_corners=True
    ),
    "bilinear_half_pixel": lambda maps, size: tf.raw_ops.ResizeBilinear(
        images=maps, size=size, half_pixel_centers=True
    ),
    "bicubic": lambda maps, size: tf.raw_ops.ResizeBicubic(
        images=maps, size=size, align_corners=True
    ),
    "bicubic_half_pixel": lambda maps, size: tf.raw_ops.ResizeBicubic(
        images=maps, size=size, half_pixel_centers=True
    ),
}


def resized_sum(maps: list[tf.Tensor], image: tf.Tensor, resize: str) -> tf.Tensor:
    """The sum of maps [B, *cells] of several sizes at the input's size, [B, *positions].

    Resizing is linear, so maps of one size are added first and resized together. Of a map with more
    axes than the input, those behind are added up; one with fewer gets axes of length 1 in front.

    Args:
        maps: The maps.
        image: The inputs [B, *positions, C].
        resize: A key of `RESIZE`.
    """
    groups: dict[Any, tf.Tensor] = {}
    axes = len(image.shape) - 1
    for number, m in enumerate(maps):
        if m.shape.rank > axes:
            m = tf.reduce_sum(m, list(range(axes, m.shape.rank)))
        while m.shape.rank < axes:
            m = m[:, tf.newaxis]
        size = tuple(m.shape[1:])
        key = number if None in size else size
        groups[key] = groups[key] + m if key in groups else m
    return tf.add_n([at_size(m, image, resize) for m in groups.values()])


def at_size(maps: tf.Tensor, image: tf.Tensor, resize: str) -> tf.Tensor:
    """Maps [B, *cells] at the input's size, [B, *positions]."""
    if maps.shape[1:] == image.shape[1:-1] and maps.shape[1:].is_fully_defined():
        return maps
    matrices = [
        _matrix(
            maps.shape[axis] or tf.shape(maps)[axis],
            image.shape[axis] or tf.shape(image)[axis],
            resize,
        )
        for axis in range(1, maps.shape.rank)
    ]
    larger = interpolated(maps, [tf.cast(matrix, maps.dtype) for matrix in matrices])
    return tf.ensure_shape(larger, [maps.shape[0], *image.shape[1:-1]])


def _matrix(old: Any, new: Any, resize: str) -> tf.Tensor:
    """Resizing of one axis as a matrix [new, old]: TensorFlow's resizing of the unit vectors.

    A matrix product is used because TensorFlow's kernels have no second derivative and compute in
    float32 only.
    """
    unit = tf.eye(old)[:, :, tf.newaxis, tf.newaxis]
    return tf.transpose(RESIZE[resize](unit, [new, 1])[:, :, 0, 0])
