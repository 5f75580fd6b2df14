"""What a comparison of saliency methods found: one table of methods × tests."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfgrad import figures
from tfgrad.arguments import one_of
from tfgrad.evaluation.measurement import HIGHER, Measurement

CONTROL = "random"
LEFT_OUT, STANDARD_ERROR = "maps left out", "standard error"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one map takes, on the machine and with the batches of the comparison.

    Attributes:
        milliseconds: per image.
        gradients: the same in input-gradients of this model.
    """

    milliseconds: float
    gradients: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Every method's result in every test, what a map costs, and what could not be had.

    Attributes:
        methods: the rows, in order; the control `"random"` is one.
        measurements: {test: {method: Measurement}}; a pair that failed is missing.
        failures: {test: {method: the sentence that says why}}.
        costs: {method: Cost}; a method without any map has none.
    """

    methods: tuple[str, ...]
    measurements: Mapping[str, Mapping[str, Measurement]]
    failures: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    costs: Mapping[str, Cost] = dataclasses.field(default_factory=dict)

    @property
    def tests(self) -> tuple[str, ...]:
        """The columns, in order."""
        return tuple(self.measurements)

    def summary(self, test: str, method: str) -> tuple[float, float]:
        """(score, deviation) of a pair in one number each, NaN for a pair that failed.

        Of a curve, the means over its points: the area under it where the points are equally far
        apart. A point without a value, NaN, is left out. The mean of the deviations is the
        deviation of the mean if points deviate together, as they do on the same images, and
        otherwise more than that.

        Raises:
            ArgumentError: there is no such test or method.
        """
        found = self._measured(test).get(one_of("method", method, self.methods))
        if found is None:
            return math.nan, math.nan
        return _mean(found.values), _mean(found.deviations)

    def best(self, test: str) -> str | None:
        """The best method by the test's own direction; None where the next is within an error.

        An error is the larger of the two deviations, or of their standard errors where the test
        reports these in a column. Methods whose score is not finite do not count.

        Raises:
            ArgumentError: there is no such test.
        """
        scores = {method: self.summary(test, method)[0] for method in self._measured(test)}
        scores = {method: score for method, score in scores.items() if math.isfinite(score)}
        if not scores:
            return None
        upwards = self._first(test).direction == HIGHER
        first, *rest = sorted(scores, key=scores.__getitem__, reverse=upwards)
        if rest:
            error = max(self._error(test, method) for method in (first, rest[0]))
            if abs(scores[first] - scores[rest[0]]) <= error:
                return None
        return first

    def markdown(self) -> str:
        """The table, the best of each column bold, and below it what the columns are.

        Costs are the last columns and never bold.
        """
        titles = ["method", *map(self._heading, self.tests), "ms per map", "input-gradients"]
        best = {test: self.best(test) for test in self.tests}
        rows = [titles, ["---"] * len(titles)]
        for method in self.methods:
            cells = [self._cell(test, method, best[test] == method) for test in self.tests]
            rows.append([method, *cells, *self._cost(method)])
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return f"{table}\n\n" + "\n".join(f"- {note}" for note in self._notes())

    def rows(self) -> list[dict[str, Any]]:
        """A record for each pair and point, a pair that failed included; costs are repeated."""
        return [row for test in self.tests for m in self.methods for row in self._rows(test, m)]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `rows`."""
        write_csv(path, self.rows())

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON can hold it; numbers that are not finite become None."""
        return {
            "methods": list(self.methods),
            "tests": {
                test: {method: found.to_json() for method, found in row.items()}
                for test, row in self.measurements.items()
            },
            "failures": {test: dict(row) for test, row in self.failures.items()},
            "costs": {method: dataclasses.asdict(cost) for method, cost in self.costs.items()},
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Comparison:
        """What `to_json` returned."""
        return Comparison(
            methods=tuple(content["methods"]),
            measurements={
                test: {method: Measurement.from_json(found) for method, found in row.items()}
                for test, row in content["tests"].items()
            },
            failures=content["failures"],
            costs={method: Cost(**cost) for method, cost in content["costs"].items()},
        )

    def panels(self) -> dict[str, dict[str, tuple[float, float]]]:
        """{heading of a test: {method: (score, deviation)}}, as `tfgrad.figures.bars` draws it."""
        panels: dict[str, dict[str, tuple[float, float]]] = {}
        for test in self.tests:
            found = {method: self.summary(test, method) for method in self.methods}
            finite = {m: pair for m, pair in found.items() if all(map(math.isfinite, pair))}
            if finite:
                panels[f"{test}\n{self._first(test).direction} is better"] = finite
        return panels

    def draw(self, path: str | os.PathLike[str], title: str | None = None) -> str:
        """Bars for each test, in one PNG; the control's score is a line through all.

        Returns:
            The path.

        Raises:
            ArgumentError: there is no score to draw, or the path cannot be written.
            ImportError: matplotlib is not installed.
        """
        return figures.bars(path, self.panels(), control=CONTROL, title=title)

    # Inside

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
        scale, form = (100, ".2f") if self._first(test).percent else (1, ".4g")
        value, deviation = (f"{scale * n:{form}}" for n in self.summary(test, method))
        shown = f"**{value}**" if best else value
        return shown + (f" ± {deviation}" if self.summary(test, method)[1] else "")

    def _cost(self, method: str) -> list[str]:
        cost = self.costs.get(method)
        return [f"{cost.milliseconds:.3g}", f"{cost.gradients:.3g}"] if cost else ["", ""]

    def _notes(self) -> Iterator[str]:
        for test, row in self.measurements.items():
            if row:
                yield f"{test}: {_described(test, self._first(test))}"
        yield "bold: the best, where the next is further away than an error"
        for sentence, pairs in self._by_sentence().items():
            yield f"failed, {pairs}: {sentence}"
        for test, row in self.measurements.items():
            for method, found in row.items():
                if left_out := max(found.columns.get(LEFT_OUT, (0.0,))):
                    yield f"{test} of {method}: {left_out:.0f} {LEFT_OUT}"
                if unknown := sum(map(math.isnan, found.values)):
                    yield f"{test} of {method}: {unknown} of {len(found.values)} points unknown"

    def _by_sentence(self) -> dict[str, str]:
        """{what went wrong: the pairs that it went wrong for}."""
        pairs: dict[str, list[str]] = {}
        for test, row in self.failures.items():
            for method, sentence in row.items():
                pairs.setdefault(sentence, []).append(f"{test} of {method}")
        return {sentence: ", ".join(of) for sentence, of in pairs.items()}

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
    """Write records of `Comparison.rows`, further columns first."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*first, *COLUMNS])
        writer.writeheader()
        writer.writerows(rows)


def _mean(numbers: Sequence[float]) -> float:
    """Of those that are not NaN; NaN if there is none."""
    known = [number for number in numbers if not math.isnan(number)]
    return sum(known) / len(known) if known else math.nan


def _described(test: str, found: Measurement) -> str:
    """What the numbers of a column are."""
    score = found.name if found.score in found.name else f"{found.name}: {found.score}"
    score = found.score if found.name == test.replace("_", " ") else score
    along = ""
    if found.along:
        places = found.labels or [f"{point:g}" for point in found.points]
        along = f", mean along {found.along} at {len(places)} points, {places[0]} to {places[-1]}"
    over = f"; ± over {found.over}" if found.over else ""
    return f"{score}{along}; {found.direction} is better{over}; seed {found.seed}"
