"""Small gradients where an example's mask says that the input is irrelevant."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfgrad import losses
from tfgrad.errors import ArgumentError
from tfgrad.gradients import axes, class_scores, targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import one_of
from tfgrad.penalties.base import PACKAGE, Penalty, at_config, checked_at, is_of_classes
from tfgrad.penalties.examples import given_for, pairs_of

SCALARS = ("log_probability", "logit")


@keras.saving.register_keras_serializable(PACKAGE)
class GradientMask(Penalty):
    """Σ_i (a_i ∂s/∂x_i)², s = Σ_k log p_k, a the mask of irrelevant inputs ("right reasons").

    The masks come with the batch, as `Examples(x, {"mask": a})`: 1 where the input must not matter,
    0 where it may, numbers between weigh. They are like x, or have no channels: [batch, height,
    width] of images, [batch, time] of series and tokens, [batch, depth, height, width] of volumes.
    Of a network with several float inputs they are {key or position among them: array}; an input
    without a mask may matter.

    By hand, logits (x_1, 0) at x = (0, 5), a = (1, 0): p = (½, ½), s = x_1 − 2 log(1 + e^x_1),
    ∂s/∂x_1 = 1 − 2 · ½ = 0; at x_1 = log 3 it is 1 − 2 · ¾ = −½, so ¼.

    Args:
        weight: λ; in the paper chosen so that both terms of the loss are of one size, 10 to 1000.
        target: None: Σ_k log p_k over all classes, or log σ(f_k) + log σ(−f_k) over independent
            labels. Else the class or scalar s, see `tfgrad.targets`; not `"all"`.
        of: For a target that is a class, `"log_probability"` or `"logit"`; None for the former, and
            for any other scalar.
        key: The key of the masks in `Examples`.
        name: Name of the metric.
        head: Output of a network with several.
        at: Layers whose outputs are differentiated beside float inputs, see `GradientNorm`; masks
            of token ids are [batch, time].
        every: k: training computes it at each k-th step alone, with the weight k λ; see `Penalty`.

    Raises:
        ArgumentError: An argument is none of these; a batch comes without masks, or with some of
            another size; the outputs are those of a regression, and no target is given.

    Example:

    ```python
    model = tfgrad.PenalizedModel(network, [tfgrad.penalties.GradientMask(10.0)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(tfgrad.penalties.Examples(images, {"mask": background}), labels)
    ```

    Source: Ross, Hughes and Doshi-Velez, *Right for the Right Reasons: Training Differentiable
    Models by Constraining their Explanations*, 2017.
    """

    squares_input_gradients = True

    def __init__(
        self,
        weight: Any = 1.0,
        target: Any = None,
        of: str | None = None,
        key: str = "mask",
        name: str | None = "gradient_mask",
        head: Any = None,
        *,
        at: Any = None,
        every: int = 1,
    ) -> None:
        super().__init__(weight, name, head, every=every)
        self.target = None if target is None else targets.validated(target, allow_all=False)
        self.of = None if of is None else one_of("of", of, SCALARS)
        if of == "logit" and target is None:
            raise ArgumentError(
                "of: got 'logit' without a target; expected target='label' or another class."
            )
        if of is not None and not is_of_classes(self.target):
            raise ArgumentError(
                f"of: got {of!r} for {self.target!r}, which is no class; expected None."
            )
        self.key, self.at = key, checked_at(at)

    @property
    def reads_classes(self) -> bool:
        """Whether it differentiates probabilities."""
        return is_of_classes(self.target) and self.of != "logit"

    def needs(self) -> Needs:
        """Logits, for a target that reads them."""
        return Needs(logits=is_of_classes(self.target), at=self.at or False)

    def compute(self, probe: Probe) -> tf.Tensor:
        """The squared gradient under the mask of each example, [batch]."""
        given = given_for(probe, self.key, self.name)
        pairs = pairs_of(self._gradient(probe), given, self.key)
        return losses.squared_norm([self._masked(probe, *pair) for pair in pairs])

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "target": targets.to_config(self.target),
            "of": self.of,
            "key": self.key,
            "at": at_config(self.at),
        }

    def _gradient(self, probe: Probe) -> Any:
        if self.target is None:
            return probe.slope(
                "sum of log-probabilities",
                lambda p: class_scores.sum_of_log_probabilities(p.logits, p.meaning),
            )
        of = self.of or ("log_probability" if is_of_classes(self.target) else "logit")
        return probe.input_gradient(self.target, of)

    def _masked(self, probe: Probe, place: Any, gradient: Any, mask: Any) -> tf.Tensor:
        """a ⊙ ∇, with the channels of each position under one number."""
        if not tf.is_tensor(gradient):
            raise ArgumentError(
                f"x: got {self.key!r} for input {place!r}, which is a nest; expected one tensor."
            )
        mask = tf.cast(mask, gradient.dtype)
        if mask.shape.rank == gradient.shape.rank - 1 and gradient.shape.rank > 2:
            gradient, mask = self._channels_last(probe, gradient), mask[..., tf.newaxis]
            fits = gradient.shape[:-1].is_compatible_with(mask.shape[:-1])
        else:
            fits = gradient.shape.is_compatible_with(mask.shape)
        if not fits:
            where = "" if place is None else f" for input {place!r}"
            raise ArgumentError(
                f"x: got {self.key!r} of shape {tuple(mask.shape)}{where}; expected "
                f"{tuple(gradient.shape)}, like the input, or the same without channels."
            )
        # Where a trace knows no lengths: one value must not be taken for several.
        lengths = tf.shape(gradient)
        if mask.shape.rank and mask.shape[-1] == 1:
            lengths = tf.concat([lengths[:-1], [1]], 0)
        return gradient * tf.reshape(mask, lengths)

    def _channels_last(self, probe: Probe, gradient: tf.Tensor) -> tf.Tensor:
        """The gradient as [batch, *positions, channels]."""
        inputs = [t for t in tf.nest.flatten(probe.x) if t.dtype.is_floating]
        if not inputs:  # an embedding
            return gradient
        found = axes.of_input(probe.network, probe.x)
        return found.channels_last(gradient) if found.rank == gradient.shape.rank else gradient
