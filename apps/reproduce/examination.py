"""Experiments that examine trained networks, and what explains them, as data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .schema import FULL, Line, Subject, Table


@dataclasses.dataclass(frozen=True)
class Examined(Line):
    """A trained network, or a copy of it after some epochs of its training."""

    subject: Subject
    epoch: int | None = None

    def network(self, seed: int) -> Subject:
        """What is examined with a seed."""
        return dataclasses.replace(self.subject, seed=seed)

    def asked(self) -> dict[str, Any]:
        """What a row tells its tests besides the network and their own arguments."""
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examination(Table):
    """Trained networks, or methods that explain them, each put to the same tests.

    Attributes:
        tests: names in `apps.experiments.examining.TESTS`, and their arguments.
        examples: how many images of the test split they look at.
        judge: who says what generated images show; trained on other images than the networks.
        reference: another network, to be judged by the gradients of all, or compared with them.
    """

    tests: Mapping[str, Mapping[str, Any]]
    examples: int
    sizes: tuple[tuple[int, int], ...] = ((FULL, 1),)
    judge: Subject | None = None
    reference: Subject | None = None

    @property
    def subject(self) -> Subject:
        """One of the networks; all are of one data set."""
        return self.rows[0].subject

    def summary(self) -> str:
        """The settings in a line."""
        one = self.subject
        parts = [
            f"{one.dataset} {one.train_split}, {one.network} at width {one.width:g}, "
            f"{one.activation}, {one.training}; {self.examples:,} test images"
        ]
        if self.judge:
            parts.append(f"judge: {self.judge.network} on {self.judge.train_split}")
        return "; ".join(parts)
