"""The files of a directory of maps, in shards; one class for each form that they may have."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from tfgrad.evaluation.map_tests import record_formats


@dataclasses.dataclass(frozen=True)
class MapFiles(abc.ABC):
    """The files of a directory of maps.

    Attributes:
        directory: The directory.
        settings: What the maps depend on; `"shape"` and `"shard_size"` are among it.
        remedy: What to do about a shard that is missing or damaged.
    """

    directory: str
    settings: Mapping[str, Any]

    remedy = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all maps, (n, H, W), or (n, *positions) of series and volumes."""
        return tuple(self.settings["shape"])

    @property
    def size(self) -> int:
        """The number of images in a shard; the last one may have fewer."""
        return self.settings["shard_size"]

    @property
    def count(self) -> int:
        """The number of shards."""
        return -(-self.shape[0] // self.size)

    @property
    def columns(self) -> record_formats.Schema:
        """{name: (type, shape of one image's entry)} of what is kept; maps alone have none."""
        return {}

    def bounds(self, index: int) -> tuple[int, int]:
        """The first image of a shard, and the first one of the next."""
        return index * self.size, min((index + 1) * self.size, self.shape[0])

    @abc.abstractmethod
    def path(self, index: int) -> str:
        """The file of a shard."""

    @abc.abstractmethod
    def readable(self, index: int) -> np.ndarray | None:
        """The maps of a shard; None if it is missing, cut short or something else."""

    def column(self, index: int, name: str) -> np.ndarray:
        """A column of a shard, one row for each image.

        Raises:
            OSError, ValueError, KeyError: The shard or the column is missing or damaged.
        """
        raise KeyError(name)
