"""The result of one test of one model: a small table with a name, a direction and a seed."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures.text_tables import Markdown
from tfgrad.internal.json_values import plain

HIGHER, LOWER = "higher", "lower"


def spread(values: ArrayLike) -> np.ndarray:
    """The standard deviation along the first axis, with n − 1 below the root; 0 for one value."""
    found = np.asarray(values)
    return found.std(0, ddof=min(1, len(found) - 1))


def standard_error(values: ArrayLike) -> np.ndarray:
    """The standard error of the mean along the first axis; 0 for one value, which has none."""
    return spread(values) / np.sqrt(len(np.asarray(values)))


def over_draws(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error of numbers [draws, images]; NaN entries are left out.

    The mean is taken over draws first and over images then. Its error is √(e₁² + e₂²), where e₁ is
    the standard error over images and e₂ that over draws, which a single draw does not show. Both
    are NaN if every entry is.
    """
    each = [_known_means(values.T), _known_means(values)]
    if not len(each[0]):
        return math.nan, math.nan
    return float(each[0].mean()), math.hypot(*map(standard_error, each))


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A score, at one point or along an axis, with its uncertainty and further columns.

    Attributes:
        name: Name of the test, such as "accuracy under input noise".
        score: What the values are, with their unit; the label of a figure's vertical axis.
        direction: `"higher"` or `"lower"`, whichever is better.
        values: The score at each point.
        deviations: Standard deviation or standard error of each value, as `over` states; 0 where
            there is only one sample.
        over: What the deviations are taken over, such as "3 noise draws".
        along: Name of the axis, such as "noise σ"; empty for a single number.
        points: Positions on that axis; (0.0,) for a single number.
        columns: Further numbers at each point, {name: values}.
        examples: Number of images that were measured.
        seed: Seed of all random numbers.
        percent: Whether tables show the score, and the columns of a single number, in %.
        labels: Names of the points where positions have no meaning, such as layers; else empty.
        reference: Number of leading points that belong to the unchanged model; a curve shows them
            and its mean excludes them.

    Raises:
        ArgumentError: Lengths differ, or `direction` is unknown.
    """

    name: str
    score: str
    direction: str
    values: tuple[float, ...]
    deviations: tuple[float, ...]
    over: str = ""
    along: str = ""
    points: tuple[float, ...] = (0.0,)
    columns: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    examples: int = 0
    seed: int = 0
    percent: bool = False
    labels: tuple[str, ...] = ()
    reference: int = 0

    def __post_init__(self) -> None:
        if self.direction not in (HIGHER, LOWER):
            raise ArgumentError(f"direction: got {self.direction!r}; expected 'higher' or 'lower'.")
        lists = {"values": self.values, "deviations": self.deviations, **self.columns}
        for name, numbers in lists.items():
            if len(numbers) != len(self.points):
                raise ArgumentError(
                    f"{name}: got {len(numbers)} numbers for {len(self.points)} points; expected "
                    "one for each."
                )
        if self.labels and len(self.labels) != len(self.points):
            raise ArgumentError(
                f"labels: got {len(self.labels)} names for {len(self.points)} points; expected one "
                "for each, or none at all."
            )

    @property
    def value(self) -> float:
        """The score of a test that returns a single number.

        Raises:
            ArgumentError: The test returns several.
        """
        if len(self.values) != 1:
            raise ArgumentError(
                f"value: got {self.name!r}, which has {len(self.values)} values along "
                f"{self.along!r}; expected a test of a single number. Try .values or .curve()."
            )
        return self.values[0]

    def curve(self) -> dict[float, tuple[float, float]]:
        """{point: (value, deviation)}, the form that `tfgrad.figures.curves` draws."""
        pairs = zip(self.values, self.deviations, strict=True)
        return dict(zip(self.points, pairs, strict=True))

    def rows(self) -> list[dict[str, Any]]:
        """One record per point, for a data frame or a CSV file."""
        return [
            {
                **({self.along: place} if self.along else {}),
                self.score: self.values[i],
                "deviation": self.deviations[i],
                **{name: numbers[i] for name, numbers in self.columns.items()},
            }
            for i, place in enumerate(self.labels or self.points)
        ]

    def to_json(self) -> dict[str, Any]:
        """All fields in a form that JSON can hold; numbers that are not finite become None."""
        return {field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Measurement:
        """The measurement whose `to_json` returned this content."""

        def numbers(values: Sequence[float | None]) -> tuple[float, ...]:
            return tuple(math.nan if value is None else float(value) for value in values)

        arrays = {name: numbers(content[name]) for name in ("values", "deviations", "points")}
        columns = {name: numbers(values) for name, values in content["columns"].items()}
        labels = tuple(content.get("labels", ()))
        return Measurement(**{**content, **arrays, "columns": columns, "labels": labels})

    @staticmethod
    def markdown(rows: Mapping[str, Measurement]) -> Markdown:
        """A Markdown table with one row per model: value ± deviation at each point.

        It is a `str`, which a notebook shows as a table.

        A test of a single number shows its further columns, too. A last column states what the
        deviations are taken over, if rows differ in that.

        Args:
            rows: {name of a model: its result in the same test}.

        Raises:
            ArgumentError: There is no row, or a row is of another test or has other points than the
                first.
        """
        if not rows:
            raise ArgumentError("rows: got none; expected {name: Measurement}.")
        first = next(iter(rows.values()))
        same = operator.attrgetter("name", "points", "labels")
        for name, row in rows.items():
            if same(row) != same(first):
                raise ArgumentError(
                    f"rows: got {name!r}, which is {row.name!r} at {row._places()}, after "
                    f"{first.name!r} at {first._places()}; expected the same test at the same "
                    "points in every row."
                )
        titles = [f"{first.along} →", *first._places()]
        if not first.along:
            titles = ["model", first.score, *first.columns]
            if first.percent:
                titles[1:] = [f"{title} (%)" for title in titles[1:]]
        cells = [[name, *row._cells()] for name, row in rows.items()]
        if len({row.over for row in rows.values()}) > 1:
            titles.append("± over")
            cells = [[*line, row.over] for line, row in zip(cells, rows.values(), strict=True)]
        rule = "|---" * len(titles) + "|"
        return Markdown("\n".join([table_row(titles), rule, *map(table_row, cells)]))

    def _places(self) -> list[str]:
        """The points as tables show them."""
        return list(self.labels) or [f"{point:g}" for point in self.points]

    def _cells(self) -> list[str]:
        scale, form = (100, ".2f") if self.percent else (1, ".4g")

        def shown(number: float) -> str:
            return f"{scale * number:{form}}"

        cells = [
            shown(value) + (f" ± {shown(deviation)}" if deviation else "")
            for value, deviation in zip(self.values, self.deviations, strict=True)
        ]
        beside = [] if self.along else [shown(numbers[0]) for numbers in self.columns.values()]
        return cells + beside


def counted(count: int, what: str) -> str:
    """A number with its noun, in the singular or plural."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def table_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table; bars and line breaks inside cells are escaped."""
    return "| " + " | ".join(in_line(cell).replace("|", r"\|") for cell in cells) + " |"


def in_line(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def _known_means(rows: np.ndarray) -> np.ndarray:
    """The mean of each row's numbers that are not NaN, for the rows that have some."""
    return np.array([row[~np.isnan(row)].mean() for row in rows if not np.isnan(row).all()])
