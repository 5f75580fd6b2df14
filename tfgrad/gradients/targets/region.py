"""The mean logit of a class over a region of a dense output, as of a segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import class_scores
from tfgrad.gradients.targets.base import PACKAGE, Outputs, Target, checked
from tfgrad.gradients.targets.choices import array, choices, chosen, listed
from tfgrad.models.output_meaning import INDEPENDENT, REGRESSION, class_count

PREDICTED = "predicted"


@keras.saving.register_keras_serializable(PACKAGE)
class Region(Target):
    """Σ_p w_p f_c(p) / Σ_p w_p: what makes a network see class c in a region.

    f is a dense output with the classes last: [batch, height, width, classes] of a segmentation,
    [batch, time, classes] of a series, [batch, depth, height, width, classes] of a volume. Of one
    logit of two classes, the classes are 0 and 1, whose logits are −f and f. The weights w and the
    class are constants: no gradient flows through their choice.

    Args:
        classes: A class index, ints [batch] (−1 leaves one open), or None for the class that wins
            most of the mask. Of a regression the index of an output.
        mask: The weights: an array of zeros and ones, or numbers ≥ 0, of the output's size without
            its batch and classes, for all examples; or one for each, with the batch first.
            `"predicted"`: where the class is the predicted one (of independent labels, where its
            logit is above 0). None: it is given with the examples, by `with_values`.
        each: Whether the mask's first axis is the batch. None: it is for a mask of three axes or
            more. Of a series, a mask for each example needs True; of a volume, one for all False.
        output: Key or position of the output, of a model with several.
        name: Name of the target.

    Raises:
        ArgumentError: A class is no index, or a weight of the mask is negative, NaN or infinite.
            Where it is used: there is no such class, the output is not dense, the mask has another
            size, or the region is empty. In a graph the latter is an assertion.

    Example:

    ```python
    cat = tfgrad.targets.Region(classes=2)          # where class 2 is predicted
    maps = tfgrad.saliency.InputGradient(segmenter, target=cat)(images)
    ```
    """

    linear = True

    def __init__(
        self,
        classes: Any = None,
        mask: Any = PREDICTED,
        *,
        each: bool | None = None,
        output: Any = None,
        name: str = "region",
    ) -> None:
        super().__init__(name)
        self.classes, self.mask = choices("classes", classes), _weights(mask)
        rank = self.mask.shape.rank if tf.is_tensor(self.mask) else None
        self.each = each if each is not None or rank is None else rank >= 3
        self.output = output

    @property
    def values(self) -> dict[str, Any]:
        """`classes` where they are not one class, and a `mask` that belongs to each example."""
        found = {} if isinstance(self.classes, int) else {"classes": self.classes}
        if self.mask is None or (tf.is_tensor(self.mask) and self.each):
            found["mask"] = self.mask
        return found

    @property
    def value_names(self) -> tuple[str, ...]:
        """What `with_values` takes."""
        return ("classes", "mask")

    def with_values(self, values: Mapping[str, Any]) -> Region:
        """Other classes (−1 leaves one open), and masks with the batch first."""
        super().with_values(values)
        mask, each = (values["mask"], True) if "mask" in values else (self.mask, self.each)
        classes = values.get("classes", self.classes)
        return Region(classes, mask, each=each, output=self.output, name=self.name)

    def specs(self, outputs: Any) -> dict[str, tf.TensorSpec]:
        """Classes, int32 [batch]; masks, float32 [batch, …]."""
        dense = outputs if self.output is None else outputs[self.output]
        shape = [None, *tf.nest.flatten(dense)[0].shape[1:-1]]
        found = {
            "classes": tf.TensorSpec([None], tf.int32, "classes"),
            "mask": tf.TensorSpec(shape, tf.float32, "mask"),
        }
        return {name: found[name] for name in self.values}

    def compute(self, outputs: Outputs) -> tf.Tensor:
        """The weighted mean of the class's logit, [batch]."""
        logits, meaning = self._dense(outputs)
        weights, classes = self._choice(logits, meaning, outputs.network)
        inside = tf.where(weights[:, :, None] > 0, logits, tf.zeros_like(logits))
        means = tf.reduce_sum(inside * weights[:, :, None], 1)
        means /= tf.reduce_sum(weights, 1)[:, None]
        return class_scores.logit(means, classes, meaning)

    def fixed(self, outputs: Outputs) -> Region:
        """The region and the classes that are chosen at these outputs."""
        logits, meaning = self._dense(outputs)
        weights, classes = self._choice(logits, meaning, outputs.network)
        weights = tf.reshape(weights, tf.shape(outputs.head(self.output))[:-1])
        return Region(classes, weights, each=True, output=self.output, name=self.name)

    def _dense(self, outputs: Outputs) -> tuple[tf.Tensor, str]:
        """The logits of every position, [batch, positions, classes], and what they mean."""
        found = outputs.head(self.output)
        if not 3 <= (found.shape.rank or 0) <= 5:
            raise ArgumentError(
                f"target: got {self!r} on an output of shape {tuple(found.shape)} of network "
                f"{outputs.network!r}; expected a dense output, [batch, height, width, classes], "
                "or that of a series or a volume; try a class index, or output= to choose another."
            )
        shape = tf.shape(found)
        count = found.shape[-1]
        flat = tf.reshape(found, [shape[0], -1, shape[-1] if count is None else count])
        self._check_mask(found)
        return flat, outputs.meaning(self.output)

    def _check_mask(self, dense: tf.Tensor) -> None:
        """Compare the mask's size with that of the output."""
        if self.mask is None:
            raise ArgumentError(
                f"mask: got None in {self!r}; expected a mask for each example; try "
                "target.with_values({'mask': masks})."
            )
        if isinstance(self.mask, str):
            return
        expected = dense.shape[:-1] if self.each else dense.shape[1:-1]
        if not self.mask.shape.is_compatible_with(expected):
            who = "one for each example" if self.each else "one for all examples"
            raise ArgumentError(
                f"mask: got shape {tuple(self.mask.shape)}, {who}; expected {tuple(expected)}, the "
                f"size of the output {tuple(dense.shape)} without its classes; try each="
                f"{not self.each} if the first axis is {'not ' if self.each else ''}the batch, or "
                "resize the mask."
            )

    def _choice(self, logits: tf.Tensor, meaning: str, network: str) -> tuple[tf.Tensor, tf.Tensor]:
        """The weights [batch, positions] and the classes [batch], none of them differentiable."""
        count = class_count(meaning, logits.shape[-1])
        predicted = isinstance(self.mask, str)
        numbers = meaning == REGRESSION and not predicted
        # Of several numbers of a regression none is the predicted one.
        given = isinstance(self.classes, int) or (
            numbers and (count == 1 or self.classes is not None)
        )
        batch, positions = tf.unstack(tf.shape(logits)[:2])
        if predicted:
            weights = tf.ones([batch, positions], logits.dtype)
        else:
            weights = tf.reshape(tf.cast(self.mask, logits.dtype), [-1, positions])
            weights = tf.broadcast_to(weights, [batch, positions])
        votes = tf.zeros([batch], tf.int32)
        wins = _wins(logits, meaning, network) if predicted or not given else None
        if wins is not None and not given:
            votes = tf.where(wins, weights[:, :, None], tf.zeros([], logits.dtype))
            votes = tf.argmax(tf.reduce_sum(votes, 1), -1, tf.int32)
        classes = chosen("classes", self.classes, votes, count, lowest=0 if numbers else -1)
        if predicted:
            weights = tf.cast(tf.gather(wins, classes, axis=2, batch_dims=1), logits.dtype)
        return tf.stop_gradient(_not_empty(weights, classes, predicted)), classes

    def get_config(self) -> dict[str, Any]:
        """`classes`, `mask`, `each`, `output` and `name`."""
        own = {"classes": listed(self.classes), "mask": listed(self.mask)}
        return {**super().get_config(), **own, "each": self.each, "output": self.output}

    def __repr__(self) -> str:
        mask = list(self.mask.shape) if tf.is_tensor(self.mask) else repr(self.mask)
        return f"Region({listed(self.classes)!r}, mask={mask})"


def _weights(mask: Any) -> Any:
    """A mask as a tensor of floats; `"predicted"`, or None."""
    if mask is None or (isinstance(mask, str) and mask == PREDICTED):
        return mask
    found, dtype = array(mask)
    if dtype is None or dtype.is_complex or len(found.shape) == 0:
        got = repr(mask) if isinstance(mask, str) else f"{found.dtype} of shape {found.shape}"
        raise ArgumentError(
            f"mask: got {got}; expected 'predicted', None, or an array of weights of the output's "
            "size."
        )
    if not tf.is_tensor(mask) and not (np.isfinite(found).all() and (found >= 0).all()):
        raise ArgumentError(
            f"mask: got weights from {found.min()} to {found.max()}; expected finite numbers ≥ 0."
        )
    return tf.cast(found, tf.float64 if dtype == tf.float64 else tf.float32)


def _wins(logits: tf.Tensor, meaning: str, network: str) -> tf.Tensor:
    """Whether a class is the predicted one at a position, [batch, positions, classes]."""
    if meaning == INDEPENDENT:
        return logits > 0
    class_scores.check_classes(meaning, f"the predicted class of network {network!r}")
    every = class_scores.class_logits(logits, meaning)
    return tf.one_hot(tf.argmax(every, -1), tf.shape(every)[-1], True, False, dtype=tf.bool)


def _not_empty(weights: tf.Tensor, classes: tf.Tensor, predicted: bool) -> tf.Tensor:
    """The weights [batch, positions], none of them negative, and not all of an example 0."""
    sizes = tf.reduce_sum(weights, 1)
    smallest = tf.argmin(sizes)
    if predicted:
        return checked(
            weights,
            tf.reduce_all(sizes > 0),
            *("mask: got an empty region, because class", classes[smallest]),
            *("is predicted nowhere in example", smallest),
            "; expected a class that is; try another class, or an array as mask.",
        )
    return checked(
        weights,
        tf.reduce_all(tf.math.is_finite(weights) & (weights >= 0)) & tf.reduce_all(sizes > 0),
        *("mask: got weights from", tf.reduce_min(weights), "to", tf.reduce_max(weights)),
        *("that sum to", sizes[smallest], "in example", smallest),
        "; expected finite numbers ≥ 0, not all of them 0.",
    )
