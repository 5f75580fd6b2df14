"""One training of remove-and-retrain, and the file that keeps its result."""

from __future__ import annotations

import dataclasses
import os
import urllib.parse
from collections.abc import Mapping
from typing import Any

from tfgrad.evaluation.digests import plain
from tfgrad.evaluation.records import check_same, read_record
from tfgrad.internal.files import write_json

RunKey = tuple[str | None, float, int]


@dataclasses.dataclass(frozen=True)
class RetrainingRun:
    """One training without a fraction of the pixels that a method ranks, and its record.

    Attributes:
        method: Name of the method; None for the training on unmodified images.
        fraction: Share of the pixels that are replaced.
        seed: Seed of the training.
        settings: Everything else that the result depends on.
    """

    method: str | None
    fraction: float
    seed: int
    settings: Mapping[str, Any]

    @property
    def key(self) -> RunKey:
        """What identifies the run within one call."""
        return self.method, self.fraction, self.seed

    def read(self, directory: str) -> dict[str, Any] | None:
        """The record in a directory; None if there is none.

        Raises:
            ResumeError: The record is damaged, or one of other settings.
        """
        path = self._path(directory)
        record = read_record(path)
        if record is not None:
            check_same(path, record.get("settings", {}), self._described())
        return record

    def write(self, directory: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write the result with its settings; returns the record."""
        record = {**result, "settings": plain(self._described())}
        write_json(self._path(directory), record)
        return record

    def _path(self, directory: str) -> str:
        # Quoted, so that no two methods share a file and no name leaves the directory.
        method = "all" if self.method is None else f"of-{urllib.parse.quote(self.method, safe='')}"
        return os.path.join(directory, f"{method}-{self.fraction!r}-seed{self.seed}.json")

    def _described(self) -> dict[str, Any]:
        own = {"method": self.method, "fraction": self.fraction, "seed": self.seed}
        return {**self.settings, **own}
