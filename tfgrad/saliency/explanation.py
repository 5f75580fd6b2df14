"""What `Method.explain` returns: maps with scores, classes and probabilities, and pictures of them.

found = tfgrad.saliency.FullGrad(model).explain(images)
found.maps, found.scores, found.classes, found.probabilities  # NumPy arrays
found.plot()  # a matplotlib figure: input, map, overlay
found.summary()  # a table of text; of decompositions with the terms' shares of the logit
found[0]  # one example; a notebook shows it as a page
"""

from __future__ import annotations

import dataclasses
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfgrad.decomposition import Shares
from tfgrad.decomposition.term_shares import unpacked
from tfgrad.errors import ArgumentError
from tfgrad.figures import captions
from tfgrad.figures.captions import SHOWN
from tfgrad.figures.explained_inputs import ExplainedInput
from tfgrad.figures.result_figures import result_figure
from tfgrad.figures.result_pages import ExampleText, result_html
from tfgrad.figures.text_tables import Text, text_table
from tfgrad.gradients import class_scores
from tfgrad.gradients.targets import Target
from tfgrad.internal.arguments import integer, is_integer
from tfgrad.internal.json_values import plain
from tfgrad.internal.precision import at_least_float32
from tfgrad.models.output_meaning import REGRESSION
from tfgrad.saliency import zero_maps
from tfgrad.saliency.shown_inputs import Shown, shown_inputs

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

_LIKELIEST = 3  # classes on a page
_ROWS = 12  # terms in a table of a page
_LINES = 32  # examples in a table of text
_WIDTH = 100  # characters of a sentence below it
_MAPS, _SCORE, _CLASS = "saliency", "score", "class"
_ERROR, _GAP = "completeness_error", "convergence_gap"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """The maps of a batch, with what belongs to them.

    `explanation[3]` is the explanation of one example, a batch of one; `explanation[2:5]` of some.
    `explanation["saliency"]` is a tensor, as are the other outputs that a graph and an exported
    signature return by name: `keys()`.

    Attributes:
        method: The name of the method.
        model: The name of the network.
        target: What is explained, if it is no class.
        outputs: {name: tensors, batch first}: `saliency`, `score`, `class` and the method's own.
        inputs: The inputs as NumPy arrays, in the structure that the model takes.
        probabilities: Of a classifier whose class is explained: softmax [B, K], sigmoids [B, K] of
            independent labels, [1 − σ, σ] of one logit; None for a regression and other targets.
        scalar: What the score is: "logit", "output" of a regression, "score" of another target.
        shares: The sums of the terms, of methods that decompose the score; None for others.
        class_names: The name of each class; None for numbers.
        numbers: The place of each example in the batch that was explained.
        shown: How the inputs are drawn.
        zero_map: Why a map of this method may be 0 everywhere, which tables and pages then say.
    """

    method: str
    model: str
    target: str | None
    outputs: Mapping[str, Any]
    inputs: Any
    probabilities: np.ndarray | None
    scalar: str
    shares: Shares | None
    class_names: list[str] | None
    numbers: range
    shown: tuple[Shown, ...]
    zero_map: str

    # The arrays

    @property
    def maps(self) -> Any:
        """[B, H, W] float32, raw; [B, T], … of other inputs; of several ones in their structure."""
        return tf.nest.map_structure(np.asarray, self.outputs[_MAPS])

    @property
    def scores(self) -> np.ndarray:
        """The explained scalar at the inputs, [B] float32: the logit of the class."""
        return np.asarray(self.outputs[_SCORE])

    @property
    def classes(self) -> np.ndarray | None:
        """The explained classes, [B] int32; the index of a regression's output; else None."""
        return None if _CLASS not in self.outputs else np.asarray(self.outputs[_CLASS])

    @property
    def completeness_error(self) -> np.ndarray | None:
        """abs(score − Σ terms) / max(abs(score), 1e-6), [B], of methods that return it."""
        return None if _ERROR not in self.outputs else np.asarray(self.outputs[_ERROR])

    # As a sequence of examples, and by the names of outputs

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, str):
            return self.outputs[which]
        if is_integer(which):
            place = range(len(self))[which]
            which = slice(place, place + 1)
        if not isinstance(which, slice):
            raise ArgumentError(
                f"explanation: got the index {which!r}; expected an int, a slice, or the name of "
                f"an output among {[*self.outputs]}."
            )
        return dataclasses.replace(
            self,
            outputs=tf.nest.map_structure(lambda t: t[which], dict(self.outputs)),
            inputs=tf.nest.map_structure(lambda t: t[which], self.inputs),
            probabilities=None if self.probabilities is None else self.probabilities[which],
            shares=None if self.shares is None else self.shares.some(which),
            numbers=self.numbers[which],
            shown=tuple(one.some(which) for one in self.shown),
        )

    def __contains__(self, name: object) -> bool:
        return name in self.outputs

    def keys(self) -> Any:
        """The names of the outputs."""
        return self.outputs.keys()

    def values(self) -> Any:
        """The outputs as tensors."""
        return self.outputs.values()

    def items(self) -> Any:
        """(name, tensor) pairs of the outputs."""
        return self.outputs.items()

    def get(self, name: str, default: Any = None) -> Any:
        """An output by its name, or the default where the method has none of it."""
        return self.outputs.get(name, default)

    def __repr__(self) -> str:
        shapes = tf.nest.map_structure(lambda t: list(t.shape), self.outputs[_MAPS])
        target = "" if self.target is None else f", target={self.target}"
        return f"Explanation({self.method!r} of {self.model!r}, maps: {shapes}{target})"

    # What it shows

    def summary(self, example: int | None = None) -> Text:
        """Tables of text: a line for each example, and the terms by their share of the score.

        Args:
            example: The number of the only example; None for all. The table of the terms is then
                that of the means over the batch.

        Raises:
            ArgumentError: There is no such example.
        """
        if example is not None:
            if not is_integer(example) or not -len(self) <= example < len(self):
                raise ArgumentError(
                    f"example: got {example!r}; expected an int from 0 to {len(self) - 1}, or None "
                    "for all."
                )
            return self[example].summary()
        maps = tf.nest.flatten(self.maps)
        names = [f"Σ|map {one.name}|" if len(maps) > 1 else "Σ|map|" for one in self.shown]
        facts = [self._facts(i, self.class_names) for i in range(len(self))]
        headings = ["example", *(what for what, _ in facts[0]), *names]
        sums = [np.abs(one.reshape(len(self), -1)).sum(1, dtype=np.float64) for one in maps]
        rows = [
            [str(self.numbers[i]), *(value for _, value in one), *(f"{s[i]:.4g}" for s in sums)]
            for i, one in enumerate(facts[:_LINES])
        ]
        rest = captions.left_out(len(self), _LINES)
        zero = [self.numbers[i] for i in np.flatnonzero(self._zero())]
        notes = textwrap.wrap(zero_maps.sentence(self.method, zero, self.zero_map), _WIDTH)
        parts = [text_table(self._title(), headings, rows, [*([rest] if rest else []), *notes])]
        if self.shares is not None:
            which = f"example {self.numbers[0]}" if len(self) == 1 else "the batch"
            parts.append(self.shares.text(f"Terms of the {self.scalar} of {which}"))
        return Text("\n\n".join(parts))

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        class_names: Sequence[str] | None = None,
        count: int = SHOWN,
        scale: str | None = None,
    ) -> Figure:
        """Draw each example: input, map and overlay; a curve, bars, slices or text of others.

        Inputs that cannot be drawn are named in the figure.

        Args:
            path: The PNG file to write; None writes none.
            class_names: The name of each class; None for those given to `explain`.
            count: The largest number of examples that are drawn; the title says how many are not.
            scale: How maps are scaled, see `tfgrad.figures.saliency_grid`; None: "contrast" for
                images and volumes, as `tfgrad explain` draws them, "percentile" for others.

        Returns:
            The figure, which a notebook shows.

        Raises:
            ArgumentError: The names are not one for each class, or an option does not exist.
            ImportError: matplotlib is not installed.
            WriteError: The path cannot be written.
        """
        names, drawn = self._names(class_names), self._first(count)
        zero = [["map 0 everywhere"] if is_zero else [] for is_zero in drawn._zero()]
        notes = [
            "\n".join([f"example {self.numbers[i]}", *map(" ".join, self._facts(i, names)), *told])
            for i, told in enumerate(zero)
        ]
        title = "; ".join(part for part in (self._title(), self._left_out(count)) if part)
        inputs = drawn.explained_inputs()
        return result_figure(path, title, self.method, inputs, notes, scale)

    def _repr_html_(self, class_names: Sequence[str] | None = None, count: int = SHOWN) -> str:
        """The page that a notebook shows; needs no matplotlib. Arguments: see `plot`."""
        names, drawn = self._names(class_names), self._first(count)
        zero = drawn._zero()
        texts = [
            ExampleText(
                self._facts(i, names),
                self._likeliest(i, names),
                None if self.shares is None else self.shares.table(i, _ROWS),
                f"terms by share of the {self.scalar}",
                f"{self.method} is 0 everywhere: {self.zero_map}." if zero[i] else "",
            )
            for i in range(len(drawn))
        ]
        inputs, rest = drawn.explained_inputs(), self._left_out(count)
        return result_html(self._title(), self.method, inputs, texts, self.numbers, rest)

    def to_dict(self) -> dict[str, Any]:
        """Numbers, lists and texts, as JSON can hold them, without the inputs."""
        found = {
            "method": self.method,
            "model": self.model,
            "target": self.target,
            "examples": list(self.numbers),
            "maps": self.maps,
            "scores": self.scores,
            "classes": self.classes,
            "class_names": self.class_names,
            "probabilities": self.probabilities,
            _ERROR: self.completeness_error,
            "terms": None if self.shares is None else self.shares.to_dict(),
        }
        return plain(found | ({_GAP: self.outputs[_GAP]} if _GAP in self.outputs else {}))

    def explained_inputs(self) -> list[ExplainedInput]:
        """Each input with its map, in the form in which it is drawn."""
        pairs = zip(self.shown, tf.nest.flatten(self.maps), strict=True)
        inputs = tf.nest.flatten(self.inputs)
        return [one.explained(inputs, found) for one, found in pairs]

    # Inside

    def _first(self, count: int) -> Explanation:
        return self[: integer("count", count)]

    def _zero(self) -> np.ndarray:
        """Whether the map of each example is 0 everywhere."""
        return zero_maps.zero_everywhere(tf.nest.flatten(self.maps))

    def _left_out(self, count: int) -> str:
        return captions.left_out(len(self), count)

    def _title(self) -> str:
        target = "" if self.target is None else f", {self.target}"
        return f"{self.method} of {self.model}{target}"

    def _names(self, given: Sequence[str] | None) -> list[str] | None:
        return self.class_names if given is None else _checked(given, self)

    def _facts(self, i: int, names: Sequence[str] | None) -> list[tuple[str, str]]:
        """(what, its value) pairs about an example."""
        facts = []
        if self.classes is not None:
            what = "output" if self.scalar == "output" else "class"
            facts.append((what, captions.named(int(self.classes[i]), names)))
        if self.probabilities is not None and self.classes is not None:
            facts.append(("p", f"{self.probabilities[i, self.classes[i]]:.3f}"))
        scalar = "value" if self.scalar == "output" else self.scalar
        facts.append((scalar, f"{self.scores[i]:.4g}"))
        for name in (_ERROR, _GAP):
            if name in self.outputs:
                facts.append((name.replace("_", " "), f"{float(self.outputs[name][i]):.1e}"))
        return facts

    def _likeliest(self, i: int, names: Sequence[str] | None) -> list[tuple[str, float]]:
        if self.probabilities is None:
            return []
        row = self.probabilities[i]
        order = np.argsort(-row, kind="stable")[:_LIKELIEST]
        return [(captions.named(int(k), names), float(row[k])) for k in order]


def report(method: Any, x: Any, target: Any) -> dict[str, Any]:
    """What `explanation_of` takes, of one forward pass, in TensorFlow operations.

    Args:
        method: The method.
        x, target: As for `Method.explain`.

    Returns:
        A nest of tensors, every one batch first.
    """
    probe, fixed, outputs = method.passed(x, target)
    found = {"outputs": outputs, "terms": method.term_sums(probe, fixed)}
    if not isinstance(fixed, Target) and probe.meaning != REGRESSION:
        logits = at_least_float32(probe.logits)
        found["probabilities"] = class_scores.probabilities(logits, probe.meaning)
    return found


def explanation_of(
    method: Any, x: Any, target: Any, found: Mapping[str, Any], class_names: Any, tokens: Any
) -> Explanation:
    """The explanation of what a method's compiled function returned.

    Args:
        method: The method.
        x: The inputs, checked.
        target: The fixed target.
        found: The result of `report`.
        class_names, tokens: See `Method.explain`.

    Raises:
        ArgumentError: The names or tokens do not fit.
    """
    own = target if isinstance(target, Target) else None
    probabilities = found.get("probabilities")
    scalar = "score" if own is not None else "output" if probabilities is None else "logit"
    made = Explanation(
        method=method.name,
        model=method.network.name,
        target=None if own is None else repr(own),
        outputs=found["outputs"],
        inputs=tf.nest.map_structure(np.asarray, x),
        probabilities=None if probabilities is None else np.asarray(probabilities),
        scalar=scalar,
        shares=unpacked(found["terms"], scalar) if found["terms"] else None,
        class_names=None,
        numbers=range(tf.nest.flatten(x)[0].shape[0]),
        zero_map=method.zero_map,
        shown=shown_inputs(method, x, len(tf.nest.flatten(found["outputs"][_MAPS])), tokens),
    )
    return dataclasses.replace(made, class_names=_checked(class_names, made))


def _checked(class_names: Any, explanation: Explanation) -> list[str] | None:
    classes = explanation.classes
    known = explanation.probabilities
    return captions.class_names(
        class_names,
        None if known is None else known.shape[1],
        -1 if classes is None else int(classes.max()),
    )
