"""The full-gradients of a scalar as a result, with its table, figure and page."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfgrad import figures
from tfgrad.decomposition.term_shares import Shares, Terms
from tfgrad.figures import captions
from tfgrad.figures.captions import SHOWN
from tfgrad.figures.explained_inputs import ExplainedInput, explained_input
from tfgrad.figures.result_pages import ExampleText, result_html
from tfgrad.figures.text_tables import Text
from tfgrad.gradients import input_structure
from tfgrad.gradients.axes import InputAxes
from tfgrad.gradients.intercepts import Intercept, TermSums
from tfgrad.internal.arguments import integer
from tfgrad.internal.json_values import plain
from tfgrad.internal.precision import at_least_float32

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

_INPUT = "input"
_ROWS = 12  # terms in a table of a page
# The largest allowed error of the sum, relative to the score and the terms' sums: terms of 1e9 that
# cancel have a rounding that hides what is summed.
_HIDDEN = 0.05


@dataclasses.dataclass(frozen=True, repr=False)
class FullGradients:
    """The full-gradients of a logit, or of another scalar of the outputs, at x.

    Attributes:
        score: f(x), [batch].
        classes: The class whose logit f is, int32 [batch]; None where f is no logit.
        x: The inputs, as the model took them; of token ids, their embeddings.
        input_gradient: ∇x f in x's structure, from which integer inputs are left out: of
            {"image": float, "tokens": int} it is {"image": ∇x f}, of a list of both a list of one.
        bias_gradients: {call name: ∇_{z_l} f ⊙ b_l, like the call's output} in call order. A call
            whose intercept is zero by its kind (ReLU, pooling, a sum, …) has no entry. A further
            call of a layer is name:1, name:2; an activation fused into a layer name/activation;
            a further output of a call name/1; "target" the intercept of the scalar's own arithmetic
            on the outputs, [batch]. Float32 or wider.
        intercepts: The layer, kind and residue of each entry, in the same order.
        rounding: The largest allowed error of the sum, relative to the sum of the terms' sizes.
        scalar: What f is called: "logit", "output" of a regression, "score" of another target.
        layouts: Finds the axes of each float input, for pictures; None if they are unknown.
    """

    score: tf.Tensor
    classes: tf.Tensor | None
    x: Any
    input_gradient: Any
    bias_gradients: dict[str, tf.Tensor]
    intercepts: tuple[Intercept, ...] = ()
    rounding: float = 1e-4
    scalar: str = "logit"
    layouts: Callable[[], Sequence[InputAxes]] | None = None

    @property
    def input_term(self) -> Any:
        """∇x f ⊙ x in the structure of `input_gradient`; its sum is the input's share of f."""
        pairs = zip(tf.nest.flatten(self.input_gradient), self.float_inputs(), strict=True)
        products = [at_least_float32(g) * at_least_float32(t) for g, t in pairs]
        return tf.nest.pack_sequence_as(self.input_gradient, products)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{n}: {list(t.shape)}" for n, t in self.bias_gradients.items())
        inputs = tf.nest.map_structure(lambda t: list(t.shape), self.input_gradient)
        return f"FullGradients(score={self.score}, input_gradient: {inputs}, {shapes})"

    def total(self) -> tf.Tensor:
        """∇x f · x + Σ_l ∇_{z_l} f · b_l, [batch], which equals `score` up to rounding."""
        return self.sums().total

    def completeness_error(self) -> tf.Tensor:
        """abs(score − total) / max(abs(score), 1e-6), [batch]."""
        return self.sums().error()

    def adds_up(self, each: bool = False, *, sums: TermSums | None = None) -> tf.Tensor:
        """Whether the terms sum to the score up to rounding; with `each` per example, [batch].

        Rounding is relative to the sum of the terms' sizes. Terms so large that it could be as
        large as what is summed (of constants such as −1e9 that cancel) count as a failure, as do
        NaN and infinite values.

        Args:
            each: Whether the answer is one for each example.
            sums: The result of `sums`; None computes it.
        """
        sums = sums or self.sums()
        error, score = tf.abs(self.score - sums.total), tf.abs(self.score)
        hidden = max(_HIDDEN, 5 * self.rounding)
        fine = error <= self.rounding * (score + sums.size)
        fine &= error <= hidden * (score + sums.largest)
        fine &= tf.math.is_finite(error)
        return fine if each else tf.reduce_all(fine)

    def sums(self) -> TermSums:
        """The sums of all terms over each example's entries, computed anew in every call."""
        terms = [*tf.nest.flatten(self.input_term), *self.bias_gradients.values()]
        return TermSums(terms, self.score)

    def terms(self) -> Terms:
        """Names, kinds and shapes of the terms: the inputs' first, then in call order."""
        labels = zip(input_structure.names(self.x), tf.nest.flatten(self.x), strict=True)
        inputs = [f"{_INPUT} {name}".strip() for name, t in labels if t.dtype.is_floating]
        known = {term.name: term.kind for term in self.intercepts}
        found = [*tf.nest.flatten(self.input_gradient), *self.bias_gradients.values()]
        kinds = [_INPUT] * len(inputs) + [known.get(n, "target") for n in self.bias_gradients]
        shapes = ((t.shape.as_list() if t.shape.rank else [None])[1:] for t in found)
        return (*inputs, *self.bias_gradients), tuple(kinds), tuple(map(tuple, shapes))

    def shares(self) -> Shares:
        """The sum of each term and its share of the score, of every example."""
        score = np.asarray(self.score, np.float64)
        sums = np.asarray(self.sums().each, np.float64).T
        return Shares(*self.terms(), sums, score, self.scalar)

    def summary(self, example: int | None = None) -> Text:
        """A table of text: the terms by their share of the score, the largest first.

        Args:
            example: The number of an example; None for the means over the batch, of which the
                shares are relative to the mean score.

        Raises:
            ArgumentError: There is no such example.
        """
        which = "the batch" if example is None else f"example {example}"
        return self.shares().text(f"Full-gradients of {which}", example)

    def to_dict(self) -> dict[str, Any]:
        """Scores, classes and the terms' sums and shares, as JSON can hold them; no arrays."""
        return plain(
            {
                "score": self.score,
                "classes": self.classes,
                "completeness_error": self.completeness_error(),
                "terms": self.shares().to_dict(),
            }
        )

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        class_names: Sequence[str] | None = None,
        count: int = SHOWN,
        terms: int = 12,
    ) -> Figure:
        """Draw the sums of the terms as bars, a panel for each example.

        Args:
            path: The PNG file to write; None writes none.
            class_names: The name of each class; None for numbers.
            count: The largest number of examples that are drawn; a line says how many are not.
            terms: Number of terms, the largest ones; the others are added up in one bar.

        Returns:
            The figure, which a notebook shows.

        Raises:
            ArgumentError: An option does not exist.
            ImportError: matplotlib is not installed.
        """
        integer("terms", terms)
        shares = self.shares()
        facts = self._facts(class_names, count)
        panels = {
            f"example {i}\n" + ", ".join(map(" ".join, one[:2])): shares.panel(i, terms)
            for i, one in enumerate(facts)
        }
        title = captions.left_out(len(shares.score), count)
        return figures.bars(path, panels, title=title or None)

    def _repr_html_(self, class_names: Sequence[str] | None = None, count: int = SHOWN) -> str:
        """Inputs under their terms ∇x f ⊙ x, and a table of the terms, for notebooks."""
        shares = self.shares()
        texts = [
            ExampleText(
                facts, table=shares.table(i, _ROWS), summary=f"terms by share of the {self.scalar}"
            )
            for i, facts in enumerate(self._facts(class_names, count))
        ]
        inputs = [one.part(0, len(texts)) for one in self.explained_inputs()]
        rest = captions.left_out(len(shares.score), count)
        return result_html("Full-gradients", "∇x f ⊙ x", inputs, texts, left_out=rest)

    def _facts(self, class_names: Sequence[str] | None, count: int) -> list[list[tuple[str, str]]]:
        """What is said of each example that is shown: (what, value) pairs."""
        classes = None if self.classes is None else self.classes.numpy()
        largest = -1 if classes is None else int(classes.max())
        names = captions.class_names(class_names, largest=largest)
        errors, scores = self.completeness_error().numpy(), self.score.numpy()
        found = []
        for i in range(min(integer("count", count), len(scores))):
            facts = [(self.scalar, f"{scores[i]:.4g}")]
            if classes is not None:
                what = "of index" if self.scalar == "output" else "of class"
                facts.append((what, captions.named(int(classes[i]), names)))
            found.append([*facts, ("completeness error", f"{errors[i]:.1e}")])
        return found

    def explained_inputs(self) -> list[ExplainedInput]:
        """The inputs under the sums of their terms over the channels."""
        values, terms = self.float_inputs(), tf.nest.flatten(self.input_term)
        layouts = [None] * len(values) if self.layouts is None else self.layouts()
        names = [name.removeprefix(f"{_INPUT} ").replace("'", "") for name in self.terms()[0]]
        found = []
        for name, layout, value, term in zip(names, layouts, values, terms, strict=False):
            if layout is None:
                layout = InputAxes(term.shape.rank, None if term.shape.rank == 2 else -1)
            laid = tf.reduce_sum(layout.channels_last(term), -1)
            shown = value if layout.channels is None else layout.channels_last(value)
            found.append(explained_input(name, shown.numpy(), laid.numpy()))
        return found

    def float_inputs(self) -> list[tf.Tensor]:
        """The inputs that were differentiated, in order."""
        return [t for t in tf.nest.flatten(self.x) if t.dtype.is_floating]
