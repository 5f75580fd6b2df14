"""Score matching on the implicit density model: log p(x|y) = f_y(x) + const (thesis Chapter 5)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfgrad import losses
from tfgrad.gradients import targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer, number, one_of
from tfgrad.penalties.base import PACKAGE, Penalty, is_of_classes

ESTIMATORS = ("taylor", "antithetic", "hutchinson", "hutchinson_rademacher", "exact")
BATCH, RUNNING = STATISTICS = ("batch", "running")


def trace(
    probe: Probe,
    target: Any,
    estimator: str = "taylor",
    sigma: float = 0.01,
    samples: int = 1,
    seed: int = 0,
) -> tf.Tensor:
    """An estimate of tr ∇²x f for each example, [batch].

    | estimator                 | formula                                     | extra cost      |
    |---------------------------|---------------------------------------------|-----------------|
    | `"taylor"`                | 2/(Nσ²) Σ (f(x+v) − f(x)), v ~ N(0, σ²I)    | N forwards      |
    | `"antithetic"`            | 1/(Nσ²) Σ (f(x+v) + f(x−v) − 2f(x))         | 2N forwards     |
    | `"hutchinson"`            | 1/N Σ vᵀ∇²f v, v ~ N(0, I)                  | N double backward |
    | `"hutchinson_rademacher"` | the same with v = ±1                        | N double backward |
    | `"exact"`                 | Σ_d ∂²f/∂x_d²                               | D double backward |

    Args:
        probe: Probe of the batch, in float32 or wider; of order 2 for the last three.
        target: The logit f, see `tfgrad.targets`; not `"all"`.
        estimator: A row of the table.
        sigma: σ of the first two.
        samples: N.
        seed: Seed of the draws.

    Source: thesis Eq. 5.3, §5.3.2, §5.8.
    """
    if estimator == "exact":
        return probe.hessian_trace(target)
    if estimator.startswith("hutchinson"):
        products = []
        for v in probe.noise(samples, seed):
            if estimator == "hutchinson_rademacher":
                v = tf.nest.map_structure(lambda t: tf.where(t < 0, -tf.ones_like(t), 1), v)
            hv = probe.hessian_vector(target, v)
            products.append(losses.inner_product(v, hv))
        return tf.reduce_mean(tf.stack(products), axis=0)
    fixed, clean = probe.fixed(target), probe.score(target)
    noise = probe.noise(samples, seed, scale=sigma)

    def scores(vectors: list[Any]) -> tf.Tensor:
        return tf.stack([probe.score_at(probe.shifted(v), fixed) for v in vectors])

    plus = scores(noise)
    if estimator == "taylor":
        return losses.taylor_trace(clean, plus, sigma)
    minus = scores([tf.nest.map_structure(tf.negative, v) for v in noise])
    return losses.antithetic_trace(clean, plus, minus, sigma)


class _TracePenalty(Penalty):
    """The estimator's arguments, for the two penalties on a trace."""

    squares_input_gradients = True
    _shown_last = ("head", "statistics", "stability", "threshold")

    def __init__(
        self,
        weight: Any,
        sigma: float,
        samples: int,
        estimator: str,
        target: Any,
        seed: int,
        name: str | None,
        head: Any,
        statistics: str,
        every: int,
    ) -> None:
        super().__init__(weight, name, head, every=every)
        self.statistics = one_of("statistics", statistics, STATISTICS)
        self.sigma = number("sigma", sigma)
        self.samples = integer("samples", samples)
        self.estimator = one_of("estimator", estimator, ESTIMATORS)
        self.target = targets.validated(target, allow_all=False)
        self.seed = int(seed)

    @property
    def wants_smooth(self) -> bool:
        """True: a ReLU network's Hessian is zero."""
        return True

    @property
    def wants_images_apart(self) -> bool:
        """True, unless an additional forward pass in inference mode is taken."""
        return self.statistics == BATCH

    @property
    def reads_classes(self) -> bool:
        """Whether it reads a logit, with whose sign the trace changes its own."""
        return not isinstance(self.target, targets.Target) or self.target.of_logits

    def needs(self) -> Needs:
        """Order 2 unless the trace comes from differences of outputs."""
        order = 1 if self.estimator in ESTIMATORS[:2] else 2
        return Needs(order=order, logits=is_of_classes(self.target), at=False)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "sigma": self.sigma,
            "samples": self.samples,
            "estimator": self.estimator,
            "target": targets.to_config(self.target),
            "seed": self.seed,
            "statistics": self.statistics,
        }

    def _probe(self, probe: Probe) -> Probe:
        """The probe in float32, in the mode that `statistics` selects."""
        return (probe.in_inference() if self.statistics == RUNNING else probe).in_float32()

    def _trace(self, probe: Probe) -> tf.Tensor:
        return trace(probe, self.target, self.estimator, self.sigma, self.samples, self.seed)


@keras.saving.register_keras_serializable(PACKAGE)
class ScoreMatching(_TracePenalty):
    """h + ½‖∇x f_y‖² + μ h², h an estimate of tr ∇²x f_y (Eq. 5.4).

    Trains the logit-gradients of a classifier to be the scores of its implicit density. Requires a
    smooth activation such as softplus (`tfgrad.layers.Softplus(10.0)`), because a ReLU network's
    Hessian is zero wherever it exists. Computed in float32 whatever the network's dtype policy.

    With the one-sided Taylor estimator E[h²] contains 4‖∇f‖²/(Nσ²), so that μ also acts as a
    gradient norm; the antithetic one has no such term and needs another μ.

    Args:
        weight: λ; 1e-3 in the text, 1e-5 best in the sweep of Table 5.2.
        sigma: σ of the noise, in the units of x.
        samples: Number N of draws per example and step.
        stability: μ ≥ 0; 1e-4 in the text, 1e-3 best in the sweep.
        estimator: One of `ESTIMATORS`: `"taylor"`, `"antithetic"`, `"hutchinson"`,
            `"hutchinson_rademacher"` or `"exact"`.
        target: The logit f_y, see `tfgrad.targets`; not `"all"`.
        seed: Seed of the draws.
        name: Name of the metric.
        head: Output of a network with several.
        statistics: `"batch"`: in training mode, where batch norm makes every logit depend on the
            noise in all images, and the trace is that of the whole batch. `"running"`: an
            additional forward pass in inference mode, where every logit depends on one image.
        every: k: training computes it at each k-th step alone, with the weight k λ; see `Penalty`.

    Raises:
        ArgumentError: An argument is out of its range.

    Source: thesis §5.3; Srinivas and Fleuret, ICLR 2021.
    """

    def __init__(
        self,
        weight: Any = 1e-3,
        sigma: float = 0.01,
        samples: int = 1,
        stability: float = 1e-4,
        estimator: str = "taylor",
        target: Any = "label",
        seed: int = 0,
        name: str | None = "score_matching",
        head: Any = None,
        statistics: str = BATCH,
        *,
        every: int = 1,
    ) -> None:
        super().__init__(
            *(weight, sigma, samples, estimator, target, seed, name, head, statistics, every)
        )
        self.stability = number("stability", stability, zero=True)

    def compute(self, probe: Probe) -> tf.Tensor:
        """h + ½‖∇x f‖² + μ h² of each example, [batch]."""
        probe = self._probe(probe)
        gradient = probe.input_gradient(self.target)
        return losses.score_matching(gradient, self._trace(probe), self.stability)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "stability": self.stability}


@keras.saving.register_keras_serializable(PACKAGE)
class AntiScoreMatching(_TracePenalty):
    """−min(h, τ): the opposite of score matching, a control that degrades the density (§5.5).

    Args:
        weight: λ; 1e-4 in the text.
        threshold: τ, above which the gradient is zero by design; 1000 in the text.

    The other arguments are those of `ScoreMatching`.

    Raises:
        ArgumentError: An argument is out of its range.

    Source: thesis §5.5; Srinivas and Fleuret, ICLR 2021.
    """

    def __init__(
        self,
        weight: Any = 1e-4,
        sigma: float = 0.01,
        samples: int = 1,
        threshold: float = 1000.0,
        estimator: str = "taylor",
        target: Any = "label",
        seed: int = 0,
        name: str | None = "anti_score_matching",
        head: Any = None,
        statistics: str = BATCH,
        *,
        every: int = 1,
    ) -> None:
        super().__init__(
            *(weight, sigma, samples, estimator, target, seed, name, head, statistics, every)
        )
        self.threshold = number("threshold", threshold)

    def compute(self, probe: Probe) -> tf.Tensor:
        """−min(h, τ) of each example, [batch]."""
        return losses.anti_score_matching(self._trace(self._probe(probe)), self.threshold)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "threshold": self.threshold}
