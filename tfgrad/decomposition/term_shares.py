"""The share of each term in a decomposed scalar, as a table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.figures.result_pages import HtmlTable
from tfgrad.figures.text_tables import Text, text_table
from tfgrad.gradients.intercepts import TermSums
from tfgrad.internal.arguments import is_integer
from tfgrad.internal.json_values import plain

_HEADINGS = ("term", "kind", "shape", "sum", "share", "cumulated")
_LEFT = 3  # columns of text

Terms = tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[int | None, ...], ...]]


@dataclasses.dataclass(frozen=True)
class Share:
    """One term of a decomposition, of one example or as the mean over several.

    Attributes:
        name: The call's name; "input", or "input 'key'" of several.
        kind: "input", the kind of an `Intercept`, or "target" for a scalar's own arithmetic.
        shape: The lengths of the term's axes without the batch; None where open.
        sum: Σ of the term's entries, in units of the scalar.
        share: sum / scalar; NaN where that is 0.
        cumulated: Σ of the shares of this term and of those before it.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...]
    sum: float
    share: float
    cumulated: float


@dataclasses.dataclass(frozen=True, eq=False)
class Shares:
    """The sums of the terms of a decomposition.

    Σ of the shares of all terms and of error / score is 1.

    Attributes:
        names, kinds, shapes: Of each term, see `Share`; the input's first, then in call order.
        sums: Σ of each term's entries, float64 [batch, terms].
        score: The scalar that is decomposed, float64 [batch].
        scalar: What it is called: "logit", "output" of a regression, or "score" of another target.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    sums: np.ndarray
    score: np.ndarray
    scalar: str = "logit"

    @property
    def error(self) -> np.ndarray:
        """score − Σ of all terms, [batch], which is rounding."""
        return self.score - self.sums.sum(1)

    @property
    def shares(self) -> np.ndarray:
        """sums / score, [batch, terms]; NaN where the score is 0."""
        score = np.where(self.score == 0, np.nan, self.score)
        return self.sums / score[:, np.newaxis]

    def some(self, which: slice) -> Shares:
        """The same of some examples."""
        return dataclasses.replace(self, sums=self.sums[which], score=self.score[which])

    def rows(self, example: int | None = None) -> list[Share]:
        """The terms, those of the largest size first.

        Args:
            example: The number of an example; None for the means over all. Means of the sums add
                up to the mean score, and shares are relative to that.

        Raises:
            ArgumentError: There is no such example.
        """
        sums, score = self._of(example)
        order = np.argsort(-np.abs(sums), kind="stable")
        shares = sums[order] / (score or math.nan)
        return [
            Share(
                self.names[k],
                self.kinds[k],
                self.shapes[k],
                float(sums[k]),
                float(shares[place]),
                float(shares[: place + 1].sum()),
            )
            for place, k in enumerate(order)
        ]

    def text(self, title: str, example: int | None = None) -> Text:
        """A table of text, a line for each term; see `rows`."""
        return text_table(title, _HEADINGS, *self._table(example, None), left=_LEFT)

    def table(self, example: int | None = None, most: int | None = None) -> HtmlTable:
        """The table for a page, of the largest terms; see `rows`."""
        return HtmlTable(_HEADINGS, *self._table(example, most))

    def to_dict(self) -> dict[str, Any]:
        """Numbers and lists; numbers that are not finite become None."""
        return {
            "names": list(self.names),
            "kinds": list(self.kinds),
            "shapes": [list(shape) for shape in self.shapes],
            "sums": plain(self.sums),
            "shares": plain(self.shares),
            "error": plain(self.error),
        }

    def panel(self, example: int, most: int) -> dict[str, tuple[float, float]]:
        """{term: (sum, 0)} of the largest terms and of the rest, for `tfgrad.figures.bars`."""
        rows = self.rows(example)
        rest = rows[most:]
        shown = {row.name: (row.sum, 0.0) for row in rows[:most]}
        if rest:
            shown[f"{len(rest)} others"] = (math.fsum(row.sum for row in rest), 0.0)
        return shown

    def _of(self, example: int | None) -> tuple[np.ndarray, float]:
        if example is None:
            return self.sums.mean(0), float(self.score.mean())
        count = len(self.score)
        if not is_integer(example) or not -count <= example < count:
            raise ArgumentError(
                f"example: got {example!r}; expected an int from 0 to {count - 1}, or None for the "
                "means over all examples."
            )
        return self.sums[example], float(self.score[example])

    def _table(self, example: int | None, most: int | None) -> tuple[list[list[str]], list[str]]:
        sums, score = self._of(example)
        rows = self.rows(example)
        cells = [
            [
                *(row.name, row.kind, _written(row.shape, "×"), f"{row.sum:.5g}"),
                *(_percent(row.share), _percent(row.cumulated)),
            ]
            for row in rows[:most]
        ]
        rest = len(rows) - len(cells)
        notes = [f"{rest} smaller terms are left out."] if rest else []
        total = float(sums.sum())
        mean = " (means over the batch)" if example is None and len(self.score) > 1 else ""
        notes.append(
            f"terms sum to {total:.6g}, {self.scalar} {score:.6g}, error {score - total:.2g}{mean}"
        )
        return cells, notes


def packed(terms: Terms, sums: TermSums, score: tf.Tensor) -> dict[str, tf.Tensor]:
    """What `unpacked` makes shares of: tensors, batch first, which parts of a batch are joined to.

    Args:
        terms: Names, kinds and shapes of the terms.
        sums: Their sums.
        score: The scalar, [batch].
    """
    names, kinds, shapes = terms
    texts = [list(names), list(kinds), [_written(shape, " ") for shape in shapes]]
    return {"sums": tf.transpose(sums.each), "score": score, "terms": tf.constant([texts])}


def unpacked(found: Mapping[str, tf.Tensor], scalar: str) -> Shares:
    """The shares of what a compiled function returned.

    Args:
        found: The result of `packed`; of several parts of a batch, one after another.
        scalar: What is decomposed: "logit", …
    """
    # Every part has told the terms, which are those of all.
    names, kinds, shapes = ([t.decode() for t in row] for row in found["terms"].numpy()[0])
    return Shares(
        tuple(names),
        tuple(kinds),
        tuple(map(_lengths, shapes)),
        np.asarray(found["sums"], np.float64),
        np.asarray(found["score"], np.float64),
        scalar,
    )


def _written(shape: Sequence[int | None], between: str) -> str:
    return between.join("?" if length is None else str(length) for length in shape)


def _lengths(text: str) -> tuple[int | None, ...]:
    return tuple(None if length == "?" else int(length) for length in text.split())


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{round(100 * share, 2) + 0.0:.2f} %"  # no −0
