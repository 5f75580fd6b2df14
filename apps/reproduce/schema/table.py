"""Tables of experiments: rows, columns, cells, and what the result of a cell depends on."""

import abc
import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from .naming import slug

FULL = 0  # The size that stands for the whole training split.
ACCURACY = "accuracy"
CIFAR10_BESIDE_CIFAR100 = (
    "the paper's numbers are CIFAR-100's, these are CIFAR-10's: compare orders, not values"
)

Numbers = Mapping[int, tuple[float, float | None]]  # {size: (mean, standard deviation or None)}


@dataclasses.dataclass(frozen=True)
class Line:
    """One row of a table.

    Attributes:
        label: Label of the row in the paper.
        paper: Published numbers, {metric: {size: (mean, standard deviation)}}.
    """

    label: str
    paper: Mapping[str, Numbers] = dataclasses.field(default_factory=dict, kw_only=True)

    @property
    def slug(self) -> str:
        """The label as part of a file name."""
        return slug(self.label)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of a cell's record, and its column.

    Attributes:
        key: Key in the record.
        title: Title of the column.
        factor: Factor on the recorded number, 100 for percentages.
        digits: Number of decimals.
        unit: Unit that is printed behind the number.
    """

    key: str
    title: str
    factor: float = 1.0
    digits: int = 2
    unit: str = ""


ACCURACY_COLUMN = Metric(ACCURACY, "test accuracy (%)", 100.0, 2, " %")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of an experiment.

    Attributes:
        size: Number of training examples per class, or `FULL`.
        seed: Seed of everything that is random.
        row: Row of the table.
    """

    size: int
    seed: int
    row: Any

    @property
    def id(self) -> str:
        """Name of the cell's file, without its extension."""
        return f"{'full' if self.size == FULL else self.size}-seed{self.seed}-{self.row.slug}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(abc.ABC):
    """An experiment: rows × sizes × seeds, at one scale.

    Attributes:
        name: Name of the experiment on the command line.
        title: Title of the table.
        scale: "small" or "paper".
        sizes: (size, number of seeds) of each group of columns.
        rows: Rows of the table.
        metrics: Columns for each size.
        note: Remarks that are printed below the table.
    """

    name: str
    title: str
    scale: str
    sizes: tuple[tuple[int, int], ...]
    rows: tuple[Any, ...]
    metrics: tuple[Metric, ...] = (ACCURACY_COLUMN,)
    note: str = ""

    def cells(self) -> list[Cell]:
        """All cells in the order in which they run.

        The rows of one size and seed follow one another, so that an interrupted run has complete
        comparisons.
        """
        return [
            Cell(size, seed, row)
            for size, seeds in self.sizes
            for seed in range(seeds)
            for row in self.rows
        ]

    def settings(self) -> dict[str, Any]:
        """The settings that all cells share, as they are after a round trip through JSON."""
        described = dataclasses.asdict(self)
        for name in ("rows", "sizes", "title", "note", "metrics"):
            del described[name]
        return json.loads(json.dumps(described))

    def size_title(self, size: int) -> str:
        """The heading of a size's columns."""
        return "all data" if size == FULL else f"{size} per class"

    @abc.abstractmethod
    def summary(self) -> str:
        """The settings in one line."""


def declaration(settings: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    """Everything on which a cell's result depends.

    Records on disk are compared with it and named after its digest, so that a changed key, label or
    default here makes them invalid.
    """
    row = dataclasses.asdict(cell.row)
    row.pop("paper", None)
    if settings.get("pretrained") and not row.get("pretrained"):
        settings = {name: value for name, value in settings.items() if name != "pretrained"}
    described = {"settings": settings, "row": row, "size": cell.size, "seed": cell.seed}
    return json.loads(json.dumps(described))


def numbers_by(keys: Iterable[Any], text: str) -> dict[Any, tuple[float, float | None]]:
    """Numbers of a paper: keys (3, 5) and "49.29±1.6 59.93" to {3: (49.29, 1.6), 5: (59.93, None)}.

    Args:
        keys: One key for each number.
        text: Numbers separated by spaces, each with its standard deviation behind "±" if known.
    """
    numbers = {}
    for key, entry in zip(keys, text.split(), strict=True):
        mean, _, deviation = entry.partition("±")
        numbers[key] = (float(mean), float(deviation) if deviation else None)
    return numbers


def paper(sizes: Iterable[int], text: str, key: str = ACCURACY) -> dict[str, Numbers]:
    """The published numbers of a row for each size, {key: {size: (mean, standard deviation)}}."""
    return {key: numbers_by(sizes, text)}
