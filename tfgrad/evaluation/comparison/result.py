"""The result of a comparison of saliency methods: one table of methods × tests."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfgrad import figures
from tfgrad.evaluation.measurement import HIGHER, Measurement, counted, in_line, table_row
from tfgrad.figures.result_figures import words_figure
from tfgrad.figures.result_pages import HtmlTable, table_html
from tfgrad.figures.text_tables import Markdown
from tfgrad.internal import files
from tfgrad.internal.arguments import one_of
from tfgrad.internal.json_values import plain

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

CONTROL = "random"
STANDARD_ERROR = "standard error"
# Columns that are 0 where every map ranks pixels.
COUNTED = ("maps left out", "constant maps")
COST = "ms per map"
# Scores whose relative difference is smaller are equal in float32.
_ROUNDING = 1e-6
_BOLD = (
    "bold: the best, if every other score is further away than twice the error of the difference, "
    "2·√(e₁² + e₂²), e being the standard error or else the ±, each of at least two images"
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """The time of one map, on the machine and with the batches of the comparison.

    Attributes:
        milliseconds: Milliseconds per image.
        gradients: The same time in units of an input-gradient of this model.
    """

    milliseconds: float
    gradients: float


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """Every method's result in every test, the cost of a map, and the failures.

    Attributes:
        methods: The rows, in order; the control `"random"` is one.
        measurements: {test: {method: Measurement}}; a pair that failed is missing.
        failures: {test: {method: the reason}}; the reason is under `"ms per map"` if only the cost
            could not be measured.
        costs: {method: Cost}; a method that never returned a map has none. Empty, the table has
            no columns for them.
        target: What is explained and measured, if it is no class.
    """

    methods: tuple[str, ...]
    measurements: Mapping[str, Mapping[str, Measurement]]
    failures: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    costs: Mapping[str, Cost] = dataclasses.field(default_factory=dict)
    target: str = ""

    @property
    def tests(self) -> tuple[str, ...]:
        """The columns, in order."""
        return tuple(self.measurements)

    def summary(self, test: str, method: str) -> tuple[float, float]:
        """(score, deviation) of a pair in one number each; NaN for a pair that failed.

        For a curve these are means over its points, which is the area under it if the points are
        equally spaced. The score is NaN if that of any point is, because the mean over the others
        is another quantity. The mean of the deviations is the deviation of the mean if points vary
        together, as they do on the same images, and an upper bound otherwise. Points of reference
        are not counted.

        Raises:
            ArgumentError: There is no such test or method.
        """
        found = self._measured(test).get(one_of("method", method, self.methods))
        if found is None or any(map(math.isnan, found.values)):
            return math.nan, math.nan
        return _mean(found.values[found.reference :]), _mean(found.deviations[found.reference :])

    def best(self, test: str) -> str | None:
        """The best method by the test's own direction; None if the difference may be chance.

        Every other score must be further away than twice the error of the difference,
        2·√(e₁² + e₂²), where e is the standard error that the test reports in a column, or else the
        deviation, and every measurement must be of at least two examples. If two methods are
        equally good, with normal and independent errors, one is then the best in 4.6 % of cases.
        On the same images errors are mostly positively correlated, so that the rule is cautious.
        Methods whose score is not finite are not counted; a method without competitors is not the
        best.

        Raises:
            ArgumentError: There is no such test.
        """
        found = self._measured(test)
        scores = {method: self.summary(test, method)[0] for method in found}
        scores = {method: score for method, score in scores.items() if math.isfinite(score)}
        if len(scores) < 2 or any(found[method].examples < 2 for method in scores):
            return None
        choose = max if self._first(test).direction == HIGHER else min
        first = choose(scores, key=scores.__getitem__)

        def clear(other: str) -> bool:
            error = math.hypot(self._error(test, first), self._error(test, other))
            rounding = _ROUNDING * max(abs(scores[first]), abs(scores[other]))
            return abs(scores[first] - scores[other]) > 2 * error + rounding

        return first if all(clear(other) for other in scores if other != first) else None

    def markdown(self) -> Markdown:
        """The table with the best of each column in bold, and the meaning of the columns below it.

        Costs are the last columns and never bold.
        """
        titles = self._titles()
        best = {test: self.best(test) for test in self.tests}
        rows = [titles, ["---"] * len(titles)]
        for method in self.methods:
            cells = [self._cell(test, method, best[test] == method) for test in self.tests]
            rows.append([method, *cells, *self._cost(method)])
        table = "\n".join(map(table_row, rows))
        notes = "\n".join(f"- {in_line(note)}" for note in self._notes())
        return Markdown(f"{table}\n\n{notes}")

    def __repr__(self) -> str:
        return f"Comparison(methods: {', '.join(self.methods)}; tests: {', '.join(self.tests)})"

    def _repr_html_(self) -> str:
        """`markdown` as the page that a notebook shows; every text is escaped."""
        rows, strong = [], set()
        for i, method in enumerate(self.methods):
            cells = [self._cell(test, method, False) for test in self.tests]
            rows.append([method, *cells, *self._cost(method)])
            strong |= {(i, 1 + j) for j, t in enumerate(self.tests) if self.best(t) == method}
        table = HtmlTable(self._titles(), rows, [*self._notes()], frozenset(strong))
        return table_html("", table)

    def rows(self) -> list[dict[str, Any]]:
        """One record per pair and point, failed pairs included; costs are repeated."""
        return [row for test in self.tests for m in self.methods for row in self._rows(test, m)]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `rows` to a CSV file."""
        write_csv(path, self.rows())

    def to_json(self) -> dict[str, Any]:
        """All fields in a form that JSON can hold; numbers that are not finite become None."""
        return {
            "methods": list(self.methods),
            "tests": {
                test: {method: found.to_json() for method, found in row.items()}
                for test, row in self.measurements.items()
            },
            "failures": {test: dict(row) for test, row in self.failures.items()},
            "costs": {method: dataclasses.asdict(cost) for method, cost in self.costs.items()},
            **({"target": self.target} if self.target else {}),
        }

    def to_dict(self) -> dict[str, Any]:
        """The same as `to_json`, with no number that is not finite anywhere."""
        return plain(self.to_json())

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Comparison:
        """The comparison whose `to_json` returned this content."""
        return Comparison(
            methods=tuple(content["methods"]),
            measurements={
                test: {method: Measurement.from_json(found) for method, found in row.items()}
                for test, row in content["tests"].items()
            },
            failures=content["failures"],
            costs={method: Cost(**cost) for method, cost in content["costs"].items()},
            target=content.get("target", ""),
        )

    def panels(self) -> dict[str, dict[str, tuple[float, float]]]:
        """{heading of a test: {method: (score, deviation)}}, the form of `tfgrad.figures.bars`."""
        panels: dict[str, dict[str, tuple[float, float]]] = {}
        for test in self.tests:
            found = {method: self.summary(test, method) for method in self.methods}
            finite = {m: pair for m, pair in found.items() if all(map(math.isfinite, pair))}
            if finite:
                panels[f"{test}\n{self._first(test).direction} is better"] = finite
        return panels

    def plot(
        self, path: str | os.PathLike[str] | None = None, *, title: str | None = None
    ) -> Figure:
        """Draw bars for each test; the control's score is a line across them.

        Args:
            path: The PNG file to write; None writes none.
            title: Title of the figure.

        Returns:
            The figure, which a notebook shows; it says so if there is no score to draw.

        Raises:
            ImportError: matplotlib is not installed.
            WriteError: The path cannot be written.
        """
        panels = self.panels()
        if not panels:
            return words_figure(
                path, [title or "Comparison", "Not drawn: there is no finite score."]
            )
        return figures.bars(path, panels, control=CONTROL, title=title)

    def draw(self, path: str | os.PathLike[str], title: str | None = None) -> str:
        """Draw bars for each test into one PNG; the control's score is a line across them.

        Args:
            path: Path of the PNG.
            title: Title of the figure.

        Returns:
            The path.

        Raises:
            ArgumentError: There is no score to draw, or the path cannot be written.
            ImportError: matplotlib is not installed.
        """
        figures.bars(path, self.panels(), control=CONTROL, title=title)
        return os.fspath(path)

    def _titles(self) -> list[str]:
        costs = [COST, "input-gradients"] if self.costs else []
        return ["method", *map(self._heading, self.tests), *costs]

    def _measured(self, test: str) -> Mapping[str, Measurement]:
        return self.measurements[one_of("test", test, self.tests)]

    def _first(self, test: str) -> Measurement:
        return next(iter(self.measurements[test].values()))

    def _error(self, test: str, method: str) -> float:
        errors = self.measurements[test][method].columns.get(STANDARD_ERROR)
        return _mean(errors) if errors else self.summary(test, method)[1]

    def _heading(self, test: str) -> str:
        if not self.measurements[test]:
            return test
        first = self._first(test)
        arrow = "↑" if first.direction == HIGHER else "↓"
        return f"{test}{' (%)' if first.percent else ''} {arrow}"

    def _cell(self, test: str, method: str, best: bool) -> str:
        if method not in self.measurements[test]:
            return "failed"
        if math.isnan(self.summary(test, method)[0]):
            return "unknown"
        scale, form = (100, ".2f") if self._first(test).percent else (1, ".4g")
        value, deviation = (f"{scale * n:{form}}" for n in self.summary(test, method))
        shown = f"**{value}**" if best else value
        return shown + (f" ± {deviation}" if self.summary(test, method)[1] else "")

    def _cost(self, method: str) -> list[str]:
        if not self.costs:
            return []
        cost = self.costs.get(method)
        return [f"{cost.milliseconds:.3g}", f"{cost.gradients:.3g}"] if cost else ["", ""]

    def _notes(self) -> Iterator[str]:
        if self.target:
            yield f"target: {self.target}"
        for test, row in self.measurements.items():
            if row:
                yield f"{test}: {_described(test, self._first(test))}"
        yield _BOLD
        for sentence, pairs in self._by_sentence().items():
            yield f"failed, {pairs}: {sentence}"
        for test, row in self.measurements.items():
            for method, found in row.items():
                for what in COUNTED:
                    if count := max(found.columns.get(what, (0.0,))):
                        yield f"{test} of {method}: {count:.0f} {what}"
                if unknown := sum(map(math.isnan, found.values)):
                    yield f"{test} of {method}: {unknown} of {len(found.values)} points unknown"

    def _by_sentence(self) -> dict[str, str]:
        """{reason of a failure: the pairs that failed for it}."""
        pairs: dict[str, list[str]] = {}
        for test, row in self.failures.items():
            for method, sentence in row.items():
                pairs.setdefault(sentence, []).append(f"{test} of {method}")
        return {sentence: ", ".join(names) for sentence, names in pairs.items()}

    def _rows(self, test: str, method: str) -> Iterator[dict[str, Any]]:
        cost = self.costs.get(method)
        pair = {"test": test, "method": method}
        costs = {
            "milliseconds per map": cost and cost.milliseconds,
            "input-gradients per map": cost and cost.gradients,
        }
        found = self.measurements[test].get(method)
        if found is None:
            yield pair | costs | {"failed": self.failures.get(test, {}).get(method)}
            return
        for i, point in enumerate(found.labels or found.points):
            yield (
                pair
                | {
                    "score": found.score,
                    "better": found.direction,
                    "along": found.along,
                    "point": point if found.along else None,
                    "value": found.values[i],
                    "deviation": found.deviations[i],
                    "over": found.over,
                    "seed": found.seed,
                }
                | costs
            )


COLUMNS = (
    *("test", "method", "score", "better", "along", "point", "value", "deviation", "over", "seed"),
    *("milliseconds per map", "input-gradients per map", "failed"),
)


def write_csv(path: str | os.PathLike[str], rows: list[dict[str, Any]], *first: str) -> None:
    """Write records of `Comparison.rows` to a CSV file.

    Args:
        path: Path of the file.
        rows: The records.
        first: Names of further columns, which come first.
    """
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, [*first, *COLUMNS])
    writer.writeheader()
    writer.writerows(rows)
    files.write_bytes(path, content.getvalue().encode())


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _described(test: str, found: Measurement) -> str:
    """The meaning of a column's numbers."""
    score = found.name if found.score in found.name else f"{found.name}: {found.score}"
    score = found.score if found.name == test.replace("_", " ") else score
    along = ""
    if found.along:
        places = (found.labels or [f"{point:g}" for point in found.points])[found.reference :]
        number = counted(len(places), "point")
        along = f", mean along {found.along} at {number}, {places[0]} to {places[-1]}"
    over = f"; ± over {found.over}" if found.over else ""
    return f"{score}{along}; {found.direction} is better{over}; seed {found.seed}"
