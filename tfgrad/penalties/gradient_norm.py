"""Gradient-norm penalties: robustness to input noise without the noise (thesis Chapter 2)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad import losses
from tfgrad.errors import ArgumentError
from tfgrad.gradients import targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer, number, one_of
from tfgrad.penalties import differences
from tfgrad.penalties import projections as projections_of
from tfgrad.penalties.base import PACKAGE, Later, Penalty, at_config, checked_at, is_of_classes

LOSSES = ("squared_error", "cross_entropy")
EXACT, DIFFERENCE = NORM_ESTIMATORS = ("exact", "difference")


@keras.saving.register_keras_serializable(PACKAGE)
class GradientNorm(Penalty):
    """Σ_k ‖∇x S^k(x)‖² (Prop. 2), or the term of one logit; ‖∇x log S_s^y(x)‖² (Eq. 2.3).

    Args:
        weight: λ; Table 2.2 sweeps 0, .01, .1, 1, 10.
        target: `"label"` (the papers' heuristic, §2.4.1), `"predicted"`, `"all"`, a class, one
            class per example, or any other scalar of the outputs; see `tfgrad.targets`. Or
            `"projected"`: an unbiased estimate of `"all"` at the cost of one class,
            ‖∇x Σ_k v_k S^k‖² with random signs v_k.
        loss: `"squared_error"`: gradients of logits. `"cross_entropy"`: gradients of the
            log-probability of one class, so that target `"all"` raises: log-softmax, or log σ(±f)
            of one logit of two classes, or log σ(f_k) of an independent label.
        name: Name of the metric.
        head: Output of a network with several.
        at: Layers whose outputs are differentiated beside float inputs, such as the embeddings of
            token ids: names, or True for those of all integer inputs. None: float inputs alone,
            and embeddings where there are none.
        every: k: training computes it at each k-th step alone, with the weight k λ; see `Penalty`.
        estimator: `"exact"`: by double backward. `"difference"`: the same value, whose gradient
            with respect to weights is a difference of outputs, ∂θ ‖∇x f‖² ≈
            ∂θ [f(x + t v) − f(x)] / t at v = 2 ∇x f, with an error O(t). It takes networks whose
            second derivatives TensorFlow lacks, and less memory, but more time. The additional
            forward pass has the same random masks and changes no state. Half-precision layers
            compute it in float32.
        step: Longest shift t ‖v‖ of a batch, in units of the root mean square of x; None for 0.01
            in float32 and 1e-6 in float64. Each replica has its own t.
        projections: Number of random vectors v per example and step, whose estimates are averaged.
        seed: Seed of the vectors.

    Raises:
        ArgumentError: An argument is none of these.

    Example:

    ```python
    model = tfgrad.PenalizedModel(network, [tfgrad.penalties.GradientNorm(0.1)])
    ```

    Source: S. Srinivas, thesis §2.4; Srinivas and Fleuret, ICML 2018. Differences: Finlay and
    Oberman, Scaleable input gradient regularization for adversarial robustness, 2019.
    """

    squares_input_gradients = True
    _shown_unless: Mapping[str, Any] = {
        **Penalty._shown_unless,
        "estimator": EXACT,
        "step": None,
        "projections": 1,
        "seed": 0,
    }

    def __init__(
        self,
        weight: Any = 1.0,
        target: Any = "label",
        loss: str = "squared_error",
        name: str | None = "gradient_norm",
        head: Any = None,
        *,
        at: Any = None,
        every: int = 1,
        estimator: str = EXACT,
        step: float | None = None,
        projections: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(weight, name, head, every=every)
        self.loss = one_of("loss", loss, LOSSES)
        self.estimator = one_of("estimator", estimator, NORM_ESTIMATORS)
        self.step = None if step is None else number("step", step)
        self.projections, self.seed = integer("projections", projections), int(seed)
        several = isinstance(target, str) and target in ("all", projections_of.PROJECTED)
        if loss == "cross_entropy" and several:
            raise ArgumentError(
                f"target: got {target!r} with loss='cross_entropy'; expected one class, for which "
                "alone Eq. 2.3 holds. Use target='label' or 'predicted'."
            )
        if estimator == DIFFERENCE and isinstance(target, str) and target == "all":
            raise ArgumentError(
                "target: got 'all' with estimator='difference', which would make one forward pass "
                "for each class; expected one scalar; try 'projected', an estimate of 'all'."
            )
        self.target, self.at = projections_of.validated(target), checked_at(at)
        if loss == "cross_entropy" and isinstance(self.target, targets.Target):
            raise ArgumentError(
                f"target: got {self.target!r} with loss='cross_entropy', which is that of a class; "
                "expected 'label', 'predicted' or a class. Use loss='squared_error' for any scalar."
            )

    @property
    def reads_classes(self) -> bool:
        """Whether it differentiates a probability; a squared norm does not depend on the sign."""
        return self.loss == "cross_entropy"

    @property
    def differentiates_twice(self) -> bool:
        """Whether it is exact; differences of outputs need first derivatives alone."""
        return self.estimator == EXACT

    def needs(self) -> Needs:
        """The full Jacobian for target `"all"`."""
        return Needs(jacobian=self._all(), logits=is_of_classes(self.target), at=self.at or False)

    def compute(self, probe: Probe) -> tf.Tensor:
        """‖∇x‖² of each example, [batch]."""
        if self.estimator == DIFFERENCE:
            values, later = self._difference(probe)
            return values + later(tf.identity)
        if self._all():
            return sum(losses.squared_norm(row) for row in probe.input_jacobian())
        return _mean([losses.squared_norm(g) for g in self._gradients(probe)])

    def in_parts(self, probe: Probe) -> tuple[tf.Tensor, Later | None]:
        """‖∇x‖² of each example; for differences, the shifted pass is the second part."""
        if self.estimator == EXACT or probe.sources.at:
            # What embeddings are shifted from depends on weights that only this pass records.
            return self.compute(probe), None
        return self._difference(probe)

    def _difference(self, probe: Probe) -> tuple[tf.Tensor, Later]:
        probe = probe.in_float32()
        pairs = [
            differences.squared_norm(probe, gradient, score, self.step)
            for gradient, score in zip(self._gradients(probe), self._scores(probe), strict=True)
        ]
        values = _mean([first for first, _ in pairs])
        return values, lambda wait: _mean([later(wait) for _, later in pairs])

    def _gradients(self, probe: Probe) -> list[Any]:
        """∇x of the scalars whose squared norms are averaged."""
        if not projections_of.is_projected(self.target):
            return [probe.input_gradient(self.target, self._of)]
        key = projections_of.key_of(self.projections, self.seed)
        return projections_of.gradients(probe, self._signs(probe), key)

    def _scores(self, probe: Probe) -> list[Callable[[Any], tf.Tensor]]:
        """The same scalars [batch] as functions of x; None stands for the probe's own."""
        if projections_of.is_projected(self.target):
            return [functools.partial(_projected, probe, v) for v in self._signs(probe)]
        fixed = probe.fixed(self.target)

        def score(x: Any) -> tf.Tensor:
            if not is_of_classes(self.target):
                return probe.score(self.target) if x is None else probe.score_at(x, fixed)
            logits = probe.logits if x is None else probe.forward(x)
            return targets.scalar(logits, fixed, self._of, meaning=probe.meaning)

        return [score]

    def _signs(self, probe: Probe) -> list[tf.Tensor]:
        return projections_of.signs(probe, self.projections, self.seed)

    @property
    def _of(self) -> str:
        return "logit" if self.loss == "squared_error" else "log_probability"

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "target": targets.to_config(self.target),
            "loss": self.loss,
            "at": at_config(self.at),
            "estimator": self.estimator,
            "step": self.step,
            "projections": self.projections,
            "seed": self.seed,
        }

    def _all(self) -> bool:
        return isinstance(self.target, str) and self.target == "all"


def _mean(values: list[tf.Tensor]) -> tf.Tensor:
    return values[0] if len(values) == 1 else tf.add_n(values) / len(values)


def _projected(probe: Probe, vector: tf.Tensor, x: Any) -> tf.Tensor:
    logits = probe.logits if x is None else probe.forward(x)
    return tf.reduce_sum(logits * tf.cast(vector, logits.dtype), -1)
