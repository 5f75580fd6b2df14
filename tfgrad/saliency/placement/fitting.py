"""The grid on which the cells of a feature map lie, from their coordinates."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfgrad.saliency.placement.grids import Axis, Grid, Placement, Scattered
from tfgrad.saliency.placement.positions import BEYOND, EXTENT, INSIDE, Positions


def fitted(cells: Positions, height: int, width: int) -> Grid | None:
    """The grid of cells [PLANES · n, h, w, C]; None if they are not at several places.

    Rows of cells may be rows or columns of pixels. Cells whose places are not those of rows and
    columns, such as shuffled ones, are `Scattered`.
    """
    # Channels, and windows on the batch axis, count alike.
    by_cell = tf.reduce_mean(cells.planes(slice(0, EXTENT.start)), [1, -1]).numpy()
    limits = tf.reduce_max(cells.planes(EXTENT), [1, 2, 3, 4]).numpy()
    seen = (
        (round(height - limits[0]), round(limits[1] - 1)),
        (round(width - limits[2]), round(limits[3] - 1)),
    )
    if any(last < first for first, last in seen):
        return None
    places = by_cell[BEYOND]
    turned = _is_turned(places)
    if turned:
        by_cell, places = by_cell.transpose(0, 2, 1), places.transpose(0, 2, 1)
    if not _is_separable(places):
        return _scattered(places.transpose(0, 2, 1) if turned else places, seen)
    axes = []
    for coordinate, limit in zip((1, 2), seen, strict=True):
        inside = _mean(by_cell[INSIDE], coordinate, -coordinate)
        axis = _axis(inside, _mean(places, coordinate, -coordinate), *limit)
        if axis is None:
            return None
        axes.append(axis)
    return Placement(axes[0], axes[1], turned)


def _is_turned(places: np.ndarray) -> bool:
    """Whether pixels' rows change along the cells' columns, from share, s·row and s·column."""

    def change(coordinate: int, axis: int) -> float:
        means = _mean(places, coordinate, -axis)
        means = means[~np.isnan(means)]
        return float(np.ptp(means)) if len(means) else 0.0

    return change(1, 2) + change(2, 1) > change(1, 1) + change(2, 2)


def _is_separable(places: np.ndarray) -> bool:
    """Whether no cell is further than 0.6 cells from the mean of its row and column."""
    there = places[0] > 1e-12
    for coordinate in (1, 2):
        means = _mean(places, coordinate, -coordinate)
        known = means[~np.isnan(means)]
        if not len(known):
            return True
        own = places[coordinate][there] / places[0][there]
        line = np.expand_dims(means, 2 - coordinate)
        far = np.abs(own - np.broadcast_to(line, there.shape)[there]).max()
        steps = np.abs(np.diff(known))
        if far > max(0.6 * (np.median(steps) if len(steps) else 0.0), 1e-3):
            return False
    return True


def _scattered(places: np.ndarray, seen: tuple[tuple[int, int], tuple[int, int]]) -> Grid | None:
    """Cells at their own places; None if several are at one place."""
    share, *totals = places.reshape(3, -1)
    there = share > 1e-12
    centres = np.stack([np.where(there, t / np.maximum(share, 1e-12), np.nan) for t in totals], 1)
    centres = centres.round(3)
    if len(np.unique(centres[there], axis=0)) < max(there.sum(), 2):
        return None
    counts = [len(np.unique(c)) - 1 for c in centres[there].T]
    spacing = [float(np.ptp(c) / n) or 1.0 for c, n in zip(centres[there].T, counts, strict=True)]
    pairs = tuple((float(row), float(column)) for row, column in centres)
    return Scattered(pairs, (spacing[0], spacing[1]), (*seen[0], *seen[1]))


def _mean(places: np.ndarray, coordinate: int, axis: int) -> np.ndarray:
    """The mean coordinate of every row (or column) of cells; NaN where they have no place."""
    share, total = places[0].sum(axis), places[coordinate].sum(axis)
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
