"""Maps of changed networks, compared with those of the network as it came."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfgrad.errors import DataError
from tfgrad.evaluation.map_tests.explained_model import ExplainedModel
from tfgrad.evaluation.map_tests.map_similarity import (
    finite,
    over_visible,
    rank_correlation_or_zero,
    structural_similarity,
    varies,
)
from tfgrad.evaluation.measurement import counted, over_draws

SCORE = "rank correlation, absolute"


class MapStages:
    """The scores of each stage of each draw, image by image.

    Args:
        explained: The network as it came.
        before: Its maps, [n, H, W].

    Attributes:
        last: The maps of the latest stage.
    """

    def __init__(self, explained: ExplainedModel, before: np.ndarray) -> None:
        self.explained, self.before = explained, before
        self.last = before
        self._rows: list[np.ndarray] = []  # [columns, n] each
        self._changed: list[float] = []

    def add(self, maps: np.ndarray, logits: np.ndarray, changed: float = 0.0) -> None:
        """Add a stage: its maps, its logits, and the relative change of the layer's weights."""
        same = (maps == self.before).reshape(len(maps), -1).all(1)
        moved = (logits != self.explained.logits).any(-1)
        known = self._compared(lambda a, b: varies(a) & finite(b), self.before, maps) == 1
        signed = self._compared(rank_correlation_or_zero, self.before, maps)
        sizes = np.abs(self.before), np.abs(maps)
        self._rows.append(
            np.stack(
                [
                    np.abs(signed),
                    signed,
                    self._compared(rank_correlation_or_zero, *sizes),
                    self._compared(structural_similarity, self.before, maps),
                    self._of_others(maps),
                    same & moved,
                    ~known,
                ]
            )
        )
        self._changed.append(changed)
        self.last = maps

    def numbers(self, stages: int) -> dict[str, Any]:
        """The fields values, deviations and columns of a `Measurement` over all stages."""
        points = list(self._points(stages))
        means = np.array([[over_draws(row)[0] for row in rows[:5]] for rows, _ in points]).T
        counts = np.array([[row.sum() for row in rows[5:]] for rows, _ in points]).T
        columns = {
            "signed rank correlation": means[1],
            "rank correlation of sizes": means[2],
            "structural similarity": means[3],
            "rank correlation of other images": means[4],
            "weights changed": [changed for _, changed in points],
            "maps unchanged": counts[0],
            "maps left out": counts[1],
        }
        return {
            "values": tuple(means[0].tolist()),
            "deviations": tuple(over_draws(rows[0])[1] for rows, _ in points),
            "columns": {name: tuple(map(float, column)) for name, column in columns.items()},
        }

    def _compared(self, compare: Callable[..., np.ndarray], *maps: np.ndarray) -> np.ndarray:
        """A comparison of maps, at the steps of token ids that are not masked."""
        return over_visible(compare, self.explained.visible, *maps)

    def _of_others(self, maps: np.ndarray) -> np.ndarray:
        if len(maps) == 1:
            return np.full(1, np.nan)
        # Half of the images away, as neighbours in sorted data are of one class.
        half, visible = len(maps) // 2, self.explained.visible
        both = None if visible is None else visible & np.roll(visible, half, 0)
        return np.abs(
            over_visible(rank_correlation_or_zero, both, np.roll(self.before, half, 0), maps)
        )

    def _points(self, stages: int) -> Iterator[tuple[Any, float]]:
        """The rows of each point, [columns][draws, n], and the mean change of weights."""
        first, later = [0], (range(s, len(self._rows), stages) for s in range(1, stages + 1))
        for chosen in (first, *later):
            rows = np.stack([self._rows[i] for i in chosen], 1)
            yield rows, float(np.mean([self._changed[i] for i in chosen]))


def over_images(explained: ExplainedModel, draws: int = 1) -> str:
    """The field `over` of a `Measurement` over images and draws of the weights."""
    several = f" and {draws} draws of the weights" if draws > 1 else ""
    return f"{counted(len(explained), 'image')}{several} (standard error)"


def check_some_vary(maps: np.ndarray, visible: np.ndarray | None = None) -> None:
    """Check that some map of the network as it came ranks pixels.

    Args:
        maps: The maps.
        visible: Which values count; see `over_visible`.

    Raises:
        DataError: All maps are constant, NaN or infinite.
    """
    if not (over_visible(varies, visible, maps) == 1).any():
        raise DataError(
            f"method: the maps of all {len(maps)} images are constant, NaN or infinite; expected "
            "some that rank pixels. Look at the network's weights, or try another method."
        )
