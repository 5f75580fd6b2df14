"""How similar two sets of maps are, image by image; NaN where a map cannot be compared."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from scipy import stats

# Side and standard deviation of the Gaussian window, and constants that keep divisors from zero,
# from Wang et al. (2004).
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
# Number of maps compared at once; it bounds memory and changes no number.
_AT_ONCE = 64

_Comparison = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _in_slices(compare: _Comparison) -> _Comparison:
    @functools.wraps(compare)
    def sliced(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        starts = range(0, len(a), _AT_ONCE)
        return np.concatenate([compare(a[i : i + _AT_ONCE], b[i : i + _AT_ONCE]) for i in starts])

    return sliced


@_in_slices
def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of pixels, [n, …] twice → [n]; ties share their mean rank.

    NaN where one of the two is constant or not finite, so that the correlation does not exist.
    """
    same = np.array([np.array_equal(one, other) for one, other in zip(a, b, strict=True)])
    known = varies(a) & varies(b)
    ranked = [_standard_ranks(_zero_unless(known, maps)) for maps in (a, b)]
    correlation = np.clip(np.einsum("ij,ij->i", *ranked), -1, 1)
    return np.where(known, np.where(same, 1.0, correlation), np.nan)


def rank_correlation_or_zero(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """`rank_correlation`, but 0 where only the second map is constant: [n, …] twice → [n].

    NaN where the first map is constant, or one of the two is not finite.
    """
    forgotten = varies(before) & finite(after) & ~varies(after)
    return np.where(forgotten, 0.0, rank_correlation(before, after))


@_in_slices
def structural_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """SSIM of absolute maps, each scaled to [0, 1] by its maximum: [n, …] twice → [n].

    The Gaussian window has side 11 and standard deviation 1.5 along every axis of the map, which
    may be of any number; for smaller maps the side is their smallest side and the standard
    deviation shrinks in proportion. NaN where a map is not finite.
    """
    known = finite(a) & finite(b)
    x, y = (_scaled(_zero_unless(known, maps)) for maps in (a, b))
    means = _windowed(x) * _windowed(y), _windowed(x) ** 2 + _windowed(y) ** 2
    moments = _windowed(x * y), _windowed(x**2 + y**2)
    brightness = (2 * means[0] + _C1) / (means[1] + _C1)
    structure = (2 * (moments[0] - means[0]) + _C2) / (moments[1] - means[1] + _C2)
    found = (brightness * structure).reshape(len(a), -1).mean(1)
    return np.where(known, found, np.nan)


@_in_slices
def relative_change(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """‖b − a‖ / ‖a‖ of each map, [n, …] twice → [n]; NaN if a is zero or one is not finite."""
    a, b = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (a, b))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        size = np.linalg.norm(a, axis=1)
        found = np.linalg.norm(b - a, axis=1) / size
    return np.where((size > 0) & np.isfinite(found), found, np.nan)


def over_visible(
    compare: Callable[..., np.ndarray], visible: np.ndarray | None, *maps: np.ndarray
) -> np.ndarray:
    """The results [n] of a comparison of maps [n, …], of which only visible values count.

    Args:
        compare: A function of these maps, such as `rank_correlation`.
        visible: Which values count, bool [n, …]; None: all.
        maps: The maps. Of an example with no visible value, the result is NaN.
    """
    if visible is None:
        return compare(*maps)
    rows = [[one[i][steps][np.newaxis] for one in maps] for i, steps in enumerate(visible)]
    return np.array([compare(*row)[0] if row[0].size else np.nan for row in rows])


def varies(maps: np.ndarray) -> np.ndarray:
    """Whether each map ranks pixels, being finite and not constant: bool [n]."""
    flat = maps.reshape(len(maps), -1)
    return finite(maps) & (flat.max(1) > flat.min(1))


def finite(maps: np.ndarray) -> np.ndarray:
    """Whether each map holds neither NaN nor infinite pixels: bool [n]."""
    return np.isfinite(maps).reshape(len(maps), -1).all(1)


def _standard_ranks(maps: np.ndarray) -> np.ndarray:
    """Ranks scaled to mean 0 and norm 1, [n, pixels]; zeros for a constant map."""
    ranks = stats.rankdata(maps.reshape(len(maps), -1), axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    size = np.linalg.norm(ranks, axis=1, keepdims=True)
    return ranks / np.where(size > 0, size, 1)


def _zero_unless(known: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The maps, zeros in place of those that are not known."""
    return np.where(known.reshape(-1, *[1] * (maps.ndim - 1)), maps, 0)


def _scaled(maps: np.ndarray) -> np.ndarray:
    """Absolute maps over their maxima, float64."""
    sizes = np.abs(maps).astype(np.float64)
    top = sizes.max(tuple(range(1, maps.ndim)), keepdims=True)
    return sizes / np.where(top > 0, top, 1)


def _windowed(maps: np.ndarray) -> np.ndarray:
    """Means over the Gaussian window at every place that lies in the map as a whole."""
    side = min(_WINDOW, *maps.shape[1:])
    offsets = np.arange(side) - (side - 1) / 2
    weights = np.exp(-0.5 * (offsets / (_SIGMA * side / _WINDOW)) ** 2)
    for axis in range(1, maps.ndim):
        places = np.lib.stride_tricks.sliding_window_view(maps, side, axis)
        maps = places @ (weights / weights.sum())
    return maps
