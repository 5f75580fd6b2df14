"""The difference of two classes' logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import class_scores
from tfgrad.gradients.targets.base import PACKAGE, Outputs, Target
from tfgrad.gradients.targets.choices import choices, chosen, listed
from tfgrad.models.output_meaning import class_count


@keras.saving.register_keras_serializable(PACKAGE)
class Contrast(Target):
    """f_a − f_b: why class a and not b.

    Args:
        a: A class index, ints [batch], or None for the predicted class.
        b: A class index, ints [batch], or None for the strongest other class, whose choice is
            frozen as that of the predicted one is. Where an example's class is also its a, value
            and gradient are 0.
        output: Key or position of the output, of a model with several.
        name: Name of the target.

    Raises:
        ArgumentError: A class is no index. Where it is used: the network has no such class, or has
            no classes.

    Example:

    ```python
    maps = tfgrad.saliency.FullGrad(network)(images, target=tfgrad.targets.Contrast(3, 5))
    ```
    """

    linear = True

    def __init__(
        self, a: Any = None, b: Any = None, name: str = "contrast", *, output: Any = None
    ) -> None:
        super().__init__(name)
        self.a, self.b, self.output = choices("a", a), choices("b", b), output
        if isinstance(self.a, int) and isinstance(self.b, int) and self.a == self.b:
            raise ArgumentError(f"b: got class {b}, which is also a; expected another class.")

    @property
    def values(self) -> dict[str, Any]:
        """`a` and `b`, int32 [batch], where they are classes of each example or open."""
        return {n: v for n, v in (("a", self.a), ("b", self.b)) if not isinstance(v, int)}

    @property
    def value_names(self) -> tuple[str, ...]:
        """What `with_values` takes."""
        return ("a", "b")

    def with_values(self, values: Mapping[str, Any]) -> Contrast:
        """Other classes; −1 leaves one open."""
        super().with_values(values)
        pair = values.get("a", self.a), values.get("b", self.b)
        return Contrast(*pair, self.name, output=self.output)

    def specs(self, outputs: Any) -> dict[str, tf.TensorSpec]:
        """Classes, int32 [batch]."""
        return {name: tf.TensorSpec([None], tf.int32, name) for name in self.values}

    def compute(self, outputs: Outputs) -> tf.Tensor:
        """f_a − f_b, [batch]; of one logit f of two classes ±2 f."""
        logits, meaning = self._logits(outputs)
        a, b = self._pair(logits, meaning)
        logit = class_scores.logit
        return logit(logits, a, meaning) - logit(logits, b, meaning)

    def fixed(self, outputs: Outputs) -> Contrast:
        """The contrast of the classes that are chosen at these outputs."""
        return Contrast(*self._pair(*self._logits(outputs)), self.name, output=self.output)

    def _logits(self, outputs: Outputs) -> tuple[tf.Tensor, str]:
        """The logits [batch, K] of two classes or more, and what they mean."""
        logits, meaning = outputs.head(self.output), outputs.meaning(self.output)
        class_scores.check_classes(meaning, "a contrast of classes")
        if logits.shape.rank != 2 or class_count(meaning, logits.shape[-1]) == 1:
            raise ArgumentError(
                f"target: got Contrast on an output of shape {tuple(logits.shape)} of network "
                f"{outputs.network!r}; expected logits [batch, classes], two or more; try "
                "tfgrad.targets.Scalar with a function of the outputs."
            )
        return logits, meaning

    def _pair(self, logits: tf.Tensor, meaning: str) -> tuple[tf.Tensor, tf.Tensor]:
        """The classes a and b of each example, int32 [batch]."""
        count = class_count(meaning, logits.shape[-1])
        every = class_scores.class_logits(logits, meaning)
        a = chosen("a", self.a, class_scores.predicted(logits, meaning), count)
        others = tf.where(
            tf.one_hot(a, tf.shape(every)[1], True, False, dtype=tf.bool),
            tf.constant(every.dtype.min, every.dtype),
            every,
        )
        return a, chosen("b", self.b, tf.argmax(others, 1, tf.int32), count)

    def get_config(self) -> dict[str, Any]:
        """`a`, `b`, `output` and `name`."""
        own = {"a": listed(self.a), "b": listed(self.b), "output": self.output}
        return {**super().get_config(), **own}

    def __repr__(self) -> str:
        return f"Contrast({listed(self.a)!r}, {listed(self.b)!r})"
