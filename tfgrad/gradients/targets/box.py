"""One number of one detection of a detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.targets.base import PACKAGE, Outputs, Target
from tfgrad.gradients.targets.choices import choices, chosen, listed
from tfgrad.internal.arguments import is_integer

BEST, SCORE = "best", "score"


@keras.saving.register_keras_serializable(PACKAGE)
class Box(Target):
    """A class score, or a coordinate, of one of the boxes that a detector returns.

    The detector returns, before any suppression of boxes that overlap, scores
    [batch, boxes, classes] and boxes [batch, boxes, 4] as two of its outputs, found by their
    shapes; or both as one output [batch, boxes, 4 + classes], the four numbers of a box first. The
    choice of the box is a constant: no gradient flows through it.

    Args:
        anchor: The position of the box, an int; ints [batch] (−1 stands for the best); or
            `"best"`: the one with the largest score of the class.
        classes: A class index, ints [batch] (−1 leaves one open), or None for the class with the
            largest score, of that box if `anchor` is given.
        value: `"score"`, or 0 to 3 for a number of the box, whose meaning (a corner, a centre, an
            offset to an anchor box) is the detector's.
        scores: Key or position of the output that is the scores; None to find it.
        boxes: Key or position of the output that is the boxes; None to find it.
        name: Name of the target.

    Raises:
        ArgumentError: An argument is none of these. Where it is used: there is no such box, class
            or output, or outputs of several shapes fit.

    Example:

    ```python
    maps = tfgrad.saliency.InputGradient(detector, target=tfgrad.targets.Box(classes=0))(images)
    ```
    """

    linear = True

    def __init__(
        self,
        anchor: Any = BEST,
        classes: Any = None,
        value: str | int = SCORE,
        *,
        scores: Any = None,
        boxes: Any = None,
        name: str = "box",
    ) -> None:
        super().__init__(name)
        own = None if isinstance(anchor, str) and anchor == BEST else anchor
        self.anchor = choices("anchor", own, "box")
        self.classes = choices("classes", classes)
        if value != SCORE and not (is_integer(value) and 0 <= int(value) < 4):
            raise ArgumentError(
                f"value: got {value!r}; expected 'score', or 0 to 3 for a number of the box."
            )
        self.value = value if isinstance(value, str) else int(value)
        self.scores, self.boxes = scores, boxes
        # Numbers of boxes are taken as the model returns them.
        self.of_logits = value == SCORE

    @property
    def values(self) -> dict[str, Any]:
        """`anchor` and `classes`, int32 [batch], where they are of each example or open."""
        pairs = (("anchor", self.anchor), ("classes", self.classes))
        return {name: value for name, value in pairs if not isinstance(value, int)}

    @property
    def value_names(self) -> tuple[str, ...]:
        """What `with_values` takes."""
        return ("anchor", "classes")

    def with_values(self, values: Mapping[str, Any]) -> Box:
        """Other boxes or classes; −1 leaves one open."""
        super().with_values(values)
        return self._with(values.get("anchor", self.anchor), values.get("classes", self.classes))

    def specs(self, outputs: Any) -> dict[str, tf.TensorSpec]:
        """Positions and classes, int32 [batch]."""
        return {name: tf.TensorSpec([None], tf.int32, name) for name in self.values}

    def compute(self, outputs: Outputs) -> tf.Tensor:
        """The score or the coordinate, [batch]."""
        scores, boxes = self._found(outputs)
        anchor, classes = self._choice(scores)
        values = scores if self.value == SCORE else boxes
        column = classes if self.value == SCORE else tf.fill(tf.shape(classes), self.value)
        width = tf.shape(values)[2]
        flat = tf.reshape(values, [tf.shape(values)[0], -1])
        return tf.gather(flat, anchor * width + column, axis=1, batch_dims=1)

    def fixed(self, outputs: Outputs) -> Box:
        """The box and the class that are chosen at these outputs."""
        return self._with(*self._choice(self._found(outputs)[0]))

    def _with(self, anchor: Any, classes: Any) -> Box:
        keys = {"scores": self.scores, "boxes": self.boxes, "name": self.name}
        return Box(BEST if anchor is None else anchor, classes, self.value, **keys)

    def _choice(self, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The position and the class of each example's box, int32 [batch]."""
        shape = tf.shape(scores)
        counts = [scores.shape[i] or shape[i] for i in (1, 2)]
        # The best class of each box, and the best box of each class, of what is left open.
        flat = tf.argmax(tf.reshape(scores, [shape[0], -1]), 1, tf.int32)
        best_class = flat % shape[2]
        if self.anchor is not None:
            own = chosen("anchor", self.anchor, flat // shape[2], counts[0], "box")
            of_box = tf.gather(scores, own, axis=1, batch_dims=1)
            best_class = tf.argmax(of_box, 1, tf.int32)
        classes = chosen("classes", self.classes, best_class, counts[1])
        of_class = tf.gather(scores, classes, axis=2, batch_dims=1)
        best_box = tf.argmax(of_class, 1, tf.int32)
        return chosen("anchor", self.anchor, best_box, counts[0], "box"), classes

    def _found(self, outputs: Outputs) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores [batch, boxes, classes] and boxes [batch, boxes, 4] among the outputs."""
        flat = tf.nest.flatten(outputs.nest)
        if len(flat) == 1:
            if flat[0].shape.rank == 3 and (flat[0].shape[-1] or 0) > 4:
                return flat[0][:, :, 4:], flat[0][:, :, :4]
            raise self._refused(outputs, "one output [batch, boxes, 4 + classes]")
        scores = None if self.scores is None else outputs.head(self.scores)
        boxes = self._one(outputs, self.boxes, "boxes", lambda t: t.shape[-1] == 4, scores)
        return self._one(outputs, self.scores, "scores", lambda t: _fits(t, boxes), boxes), boxes

    def _one(
        self,
        outputs: Outputs,
        key: Any,
        name: str,
        fits: Callable[[tf.Tensor], bool],
        other: tf.Tensor | None,
    ) -> tf.Tensor:
        """The output of a key, or the only one that fits and is no other."""
        among = tf.nest.flatten(outputs.nest) if key is None else [outputs.head(key)]
        found = [
            t
            for t in among
            if t is not other and t.dtype.is_floating and t.shape.rank == 3 and fits(t)
        ]
        if len(found) != 1:
            raise self._refused(outputs, f"{name}, which {len(found)} of the outputs can be")
        return found[0]

    def _refused(self, outputs: Outputs, what: str) -> ArgumentError:
        nest = outputs.nest
        if isinstance(nest, Mapping):
            got = {key: [tuple(t.shape) for t in tf.nest.flatten(nest[key])] for key in nest}
            shapes = ", ".join(f"{k!r}: {', '.join(map(str, v))}" for k, v in got.items())
        else:
            shapes = ", ".join(str(tuple(t.shape)) for t in tf.nest.flatten(nest))
        return ArgumentError(
            f"target: got {self!r} for network {outputs.network!r}, whose outputs are {shapes}; "
            f"expected {what}: scores [batch, boxes, classes] and boxes [batch, boxes, 4]; try "
            "scores= and boxes=, the keys of the outputs, or tfgrad.targets.Scalar with a function."
        )

    def get_config(self) -> dict[str, Any]:
        """`anchor`, `classes`, `value`, `scores`, `boxes` and `name`."""
        anchor = BEST if self.anchor is None else listed(self.anchor)
        own = {"anchor": anchor, "classes": listed(self.classes), "value": self.value}
        return {**super().get_config(), **own, "scores": self.scores, "boxes": self.boxes}

    def __repr__(self) -> str:
        anchor = BEST if self.anchor is None else listed(self.anchor)
        return f"Box({anchor!r}, {listed(self.classes)!r}, {self.value!r})"


def _fits(scores: tf.Tensor, boxes: tf.Tensor) -> bool:
    """Whether an output has a row for each box."""
    return bool(scores.shape[:2].is_compatible_with(boxes.shape[:2]))
