"""The grid on which the cells of a feature map lie, from their coordinates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfgrad.saliency.placement.grids import Axis, Grid, Placement, Scattered
from tfgrad.saliency.placement.positions import Positions


def fitted(cells: Positions, lengths: Sequence[int]) -> Grid | None:
    """The grid of cells [planes · n, *cells, C]; None if they are not at several places.

    Any axis of cells may run along any axis of the input, and along none. Cells whose places are
    not those of rows and columns, such as shuffled ones, are `Scattered`.
    """
    held = cells.held
    count, axes = held.coordinates, len(cells.shape) - 2
    # Channels, and windows on the batch axis, count alike.
    by_cell = tf.reduce_mean(cells.planes(slice(0, held.extent.start)), [1, -1]).numpy()
    limits = tf.reduce_max(cells.planes(held.extent), list(range(1, axes + 3))).numpy()
    seen = tuple(
        (round(length - limits[2 * i]), round(limits[2 * i + 1] - 1))
        for i, length in enumerate(lengths)
    )
    if any(last < first for first, last in seen):
        return None
    for _ in range(count - axes):
        by_cell = by_cell[:, np.newaxis]
    places = by_cell[held.beyond]
    order = _order(places)
    if not _is_separable(places, order):
        return _scattered(places, seen)
    others = [axis for axis in range(places.ndim - 1) if axis not in order]
    if any(_change(places, c, axis) > 1e-3 for axis in others for c in range(1, count + 1)):
        # An image made of a series: its columns are steps, too, unless several are at one place.
        scattered = _scattered(places, seen)
        if scattered is not None:
            return scattered
    found = []
    for coordinate, (own, limit) in enumerate(zip(order, seen, strict=True), start=1):
        inside = _mean(by_cell[held.inside], coordinate, own)
        axis = _axis(inside, _mean(places, coordinate, own), *limit)
        if axis is None:
            return None
        found.append(axis)
    return Placement(tuple(found), order, tuple(places.shape[1:]))


def _order(places: np.ndarray) -> tuple[int, ...]:
    """The axis of cells along which each coordinate changes, from share and share · coordinates.

    Of several orders with the same changes, the first one counts, which keeps the axes.
    """
    coordinates, axes = len(places) - 1, places.ndim - 1
    changes = [
        [_change(places, c, axis) for axis in range(axes)] for c in range(1, coordinates + 1)
    ]
    orders = itertools.permutations(range(axes), coordinates)
    return max(orders, key=lambda order: sum(changes[i][axis] for i, axis in enumerate(order)))


def _change(places: np.ndarray, coordinate: int, axis: int) -> float:
    """By how much a coordinate changes along an axis of cells."""
    means = _mean(places, coordinate, axis)
    means = means[~np.isnan(means)]
    return float(np.ptp(means)) if len(means) else 0.0


def _is_separable(places: np.ndarray, order: tuple[int, ...]) -> bool:
    """Whether no cell is further than 0.6 cells from the mean of its row and column."""
    there = places[0] > 1e-12
    for coordinate, axis in enumerate(order, start=1):
        means = _mean(places, coordinate, axis)
        known = means[~np.isnan(means)]
        if not len(known):
            return True
        own = places[coordinate][there] / places[0][there]
        line = np.reshape(means, [-1 if i == axis else 1 for i in range(there.ndim)])
        far = np.abs(own - np.broadcast_to(line, there.shape)[there]).max()
        steps = np.abs(np.diff(known))
        if far > max(0.6 * (np.median(steps) if len(steps) else 0.0), 1e-3):
            return False
    return True


def _scattered(places: np.ndarray, seen: tuple[tuple[int, int], ...]) -> Grid | None:
    """Cells at their own places; None if several are at one place."""
    share, *totals = places.reshape(len(places), -1)
    there = share > 1e-12
    centres = np.stack([np.where(there, t / np.maximum(share, 1e-12), np.nan) for t in totals], 1)
    centres = centres.round(3)
    if len(np.unique(centres[there], axis=0)) < max(there.sum(), 2):
        return None
    counts = [max(len(np.unique(c)) - 1, 1) for c in centres[there].T]
    spacing = [float(np.ptp(c) / n) or 1.0 for c, n in zip(centres[there].T, counts, strict=True)]
    return Scattered(tuple(tuple(map(float, c)) for c in centres), tuple(spacing), seen)


def _mean(places: np.ndarray, coordinate: int, axis: int) -> np.ndarray:
    """The mean coordinate along an axis of cells; NaN where they have no place."""
    others = tuple(i for i in range(places.ndim - 1) if i != axis)
    share, total = places[0].sum(others), places[coordinate].sum(others)
    return np.where(share > 1e-12, total / np.maximum(share, 1e-12), np.nan)


def _continued(centres: np.ndarray) -> np.ndarray:
    """Centres with those between and beyond the known ones on straight lines."""
    count = np.arange(len(centres))
    known = np.flatnonzero(~np.isnan(centres))
    filled = np.interp(count, known, centres[known])
    for edge, inner, beyond in (
        (known[0], known[1], count < known[0]),
        (known[-1], known[-2], count > known[-1]),
    ):
        slope = (centres[edge] - centres[inner]) / (edge - inner)
        filled[beyond] = centres[edge] + slope * (count[beyond] - edge)
    return filled


def _axis(inside: np.ndarray, beyond: np.ndarray, first: int, last: int) -> Axis | None:
    """Equally spaced centres, unless the cells are far from that.

    The spacing is that of a network without borders. Of what the middle cells would see, some may
    lie outside the image: they look at the middle of the rest.
    """
    count = len(beyond)
    if np.count_nonzero(~np.isnan(beyond)) < min(count, 2):
        return None
    if np.isnan(beyond).any():
        beyond = _continued(beyond)
    cells = np.arange(count) - (count - 1) / 2
    # Where a network enlarges its maps, the outer cells may be closer to each other.
    edge = count // 4 if count > 4 else 0
    inner = slice(edge, count - edge)
    half = (count - 2 * edge) // 2
    rise = beyond[inner][-half:].mean() - beyond[inner][:half].mean() if half else 0.0
    spacing = rise / (count - 2 * edge - half)
    centres = beyond[inner].mean() + spacing * cells
    # Cells that are out of order were moved, as by tf.roll.
    is_moved = (np.diff(beyond) * np.sign(spacing) < -1e-6).any()
    if is_moved or np.abs(centres - beyond)[inner].max() > 0.6 * abs(spacing):
        centres = beyond
    if count > 1 and np.ptp(centres) < 1e-6:
        return None
    shift = (inside - beyond)[(np.abs(cells) <= 1) & ~np.isnan(inside)]
    centres = centres + (shift.mean() if len(shift) else 0.0)
    return Axis(tuple(round(float(c), 3) for c in centres), first, last)
