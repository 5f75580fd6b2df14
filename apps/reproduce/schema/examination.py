"""Experiments that examine trained networks, or saliency methods on them, as data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .networks import ExaminedNetwork
from .table import FULL, Line, Table

LOGIT = "relative log density ratio"  # A score of `tfgrad.evaluation.pixel_perturbation`.
# Methods: the first is a name in `tfgrad.saliency`, the others do not depend on the model.
RANDOM, BRIGHTNESS, CENTRE = "random", "brightness", "centre"


@dataclasses.dataclass(frozen=True)
class Examined(Line):
    """A trained network, or a copy of it after some epochs of its training.

    Attributes:
        subject: The network.
        epoch: Epoch after which the copy was kept; None for the end of training.
    """

    subject: ExaminedNetwork
    epoch: int | None = None

    def network(self, seed: int) -> ExaminedNetwork:
        """The network that is examined with a seed."""
        return dataclasses.replace(self.subject, seed=seed)

    def asked(self) -> dict[str, Any]:
        """Arguments that the row adds to those of its tests."""
        return {}


@dataclasses.dataclass(frozen=True)
class Explained(Examined):
    """A saliency method on a trained network.

    Attributes:
        method: Name in `tfgrad.saliency`, or `BRIGHTNESS` or `CENTRE`, which do not depend on the
            model.
        options: Other arguments of the method.
        magnitude: Whether tests of the size of attributions take absolute values.
    """

    method: str = RANDOM
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    magnitude: bool = True

    def network(self, seed: int) -> ExaminedNetwork:
        """The network, which is the same for all seeds so that maps are computed once."""
        return self.subject

    def asked(self) -> dict[str, Any]:
        """The row itself, from which tests build the method."""
        return {"by": self}


@dataclasses.dataclass(frozen=True)
class Coarsened(Explained):
    """The same, with maps averaged over squares and interpolated, in tests that remove pixels.

    Attributes:
        square: Side of a square, in pixels.
    """

    square: int = 1

    @staticmethod
    def of(row: Explained, square: int) -> "Coarsened":
        """The row's method with coarser maps."""
        fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        return Coarsened(**fields | {"label": f"{row.label}, squares of {square}"}, square=square)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examination(Table):
    """Trained networks, or methods that explain them, that all undergo the same tests.

    Attributes:
        tests: {name in `runners.examinations.TESTS`: arguments}.
        examples: Number of images of the test split that the tests use.
        judge: Classifier of generated images, trained on other images than the networks.
        reference: Another network: the one whose accuracy is measured with the gradients of all
            rows, or the one with whose maps theirs are compared.
    """

    tests: Mapping[str, Mapping[str, Any]]
    examples: int
    sizes: tuple[tuple[int, int], ...] = ((FULL, 1),)
    judge: ExaminedNetwork | None = None
    reference: ExaminedNetwork | None = None

    @property
    def subject(self) -> ExaminedNetwork:
        """The first row's network; all networks have the same data set."""
        return self.rows[0].subject

    def summary(self) -> str:
        """The settings in one line."""
        one = self.subject
        parts = [
            f"{one.dataset} {one.train_split}, {one.network} at width {one.width:g}, "
            f"{one.activation}, {one.training}; {self.examples:,} test images"
        ]
        if self.judge:
            parts.append(f"judge: {self.judge.network} on {self.judge.train_split}")
        return "; ".join(parts)
