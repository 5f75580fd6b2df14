"""Score matching on the implicit density model: log p(x|y) = f_y(x) + const (thesis Chapter 5)."""

import keras
import tensorflow as tf

from tfgrad import losses
from tfgrad.gradients import targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer, number, one_of
from tfgrad.penalties.base import PACKAGE, Penalty

ESTIMATORS = ("taylor", "antithetic", "hutchinson", "hutchinson_rademacher", "exact")
BATCH, RUNNING = STATISTICS = ("batch", "running")


def trace(probe: Probe, target, estimator="taylor", sigma=0.01, samples=1, seed=0):
    """An estimate of tr ∇²x f for each example, [batch].

    | estimator                 | formula                                     | extra cost      |
    |---------------------------|---------------------------------------------|-----------------|
    | `"taylor"`                | 2/(Nσ²) Σ (f(x+v) − f(x)), v ~ N(0, σ²I)    | N forwards      |
    | `"antithetic"`            | 1/(Nσ²) Σ (f(x+v) + f(x−v) − 2f(x))         | 2N forwards     |
    | `"hutchinson"`            | 1/N Σ vᵀ∇²f v, v ~ N(0, I)                  | N double backward |
    | `"hutchinson_rademacher"` | the same with v = ±1                        | N double backward |
    | `"exact"`                 | Σ_d ∂²f/∂x_d²                               | D double backward |

    Args:
        probe: of the batch, in float32 or better; order 2 for the last three.
        target: whose logit f is; not `"all"`.
        estimator: a row of the table.
        sigma: σ of the first two.
        samples: N.
        seed: of the draws.

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
            pairs = zip(tf.nest.flatten(v), tf.nest.flatten(hv), strict=True)
            products.append(
                tf.add_n([tf.reduce_sum(a * b, tf.range(1, tf.rank(a))) for a, b in pairs])
            )
        return tf.reduce_mean(tf.stack(products), axis=0)
    indices, clean = probe.classes(target), probe.score(target)
    noise = probe.noise(samples, seed, scale=sigma)

    def scores(vectors):
        return tf.stack([targets.select(probe.forward(probe.shifted(v)), indices) for v in vectors])

    plus = scores(noise)
    if estimator == "taylor":
        return losses.taylor_trace(clean, plus, sigma)
    minus = scores([tf.nest.map_structure(tf.negative, v) for v in noise])
    return losses.antithetic_trace(clean, plus, minus, sigma)


class _TracePenalty(Penalty):
    """Holds the estimator's arguments for the two penalties that are made of a trace."""

    def __init__(self, weight, sigma, samples, estimator, target, seed, name, head, statistics):
        super().__init__(weight, name, head)
        self.statistics = one_of("statistics", statistics, STATISTICS)
        self.sigma = number("sigma", sigma)
        self.samples = integer("samples", samples)
        self.estimator = one_of("estimator", estimator, ESTIMATORS)
        self.target = targets.validated(target, allow_all=False)
        self.seed = int(seed)

    @property
    def wants_smooth(self):
        """True: a ReLU network's Hessian is zero."""
        return True

    @property
    def wants_images_apart(self):
        """True, unless it has a pass of its own in inference mode."""
        return self.statistics == BATCH

    def needs(self):
        """Order 2 unless the trace comes from differences of outputs."""
        return Needs(order=1 if self.estimator in ESTIMATORS[:2] else 2)

    def get_config(self):
        """Constructor arguments."""
        return {
            **super().get_config(),
            "sigma": self.sigma,
            "samples": self.samples,
            "estimator": self.estimator,
            "target": targets.to_config(self.target),
            "seed": self.seed,
            "head": self.head,
            "statistics": self.statistics,
        }

    def _probe(self, probe):
        """In the mode that `statistics` asks for, and float32."""
        return (probe.in_inference() if self.statistics == RUNNING else probe).in_float32()

    def _trace(self, probe):
        return trace(probe, self.target, self.estimator, self.sigma, self.samples, self.seed)


@keras.saving.register_keras_serializable(PACKAGE)
class ScoreMatching(_TracePenalty):
    """h + ½‖∇x f_y‖² + μ h², h an estimate of tr ∇²x f_y (Eq. 5.4).

    Makes the logit-gradients of a classifier the scores of its implicit density. Needs a smooth
    activation: a ReLU network's Hessian is zero wherever it exists, so use softplus
    (`tfgrad.layers.Softplus(10.0)`). Computed in float32 whatever the network's dtype policy.

    With the one-sided Taylor estimator E[h²] contains 4‖∇f‖²/(Nσ²), so that μ acts as a gradient
    norm too; the antithetic one has no such term and wants its own μ.

    Args:
        weight: λ; 1e-3 in the text, 1e-5 best in the sweep of Table 5.2.
        sigma: σ of the noise, in the units of x.
        samples: N draws per example and step.
        stability: μ ≥ 0; 1e-4 in the text, 1e-3 best in the sweep.
        estimator: see `trace`.
        target: whose logit; not `"all"`.
        seed: of the draws.
        name: of the metric.
        head: which output, of a network with several.
        statistics: `"batch"`: in training mode, where batch norm makes every
            logit depend on the noise in all images, and the trace is one over the whole batch; or
            `"running"`, a pass of its own in inference mode, whose logits depend on one image each.

    Raises:
        ArgumentError: an argument is out of its range.

    Source: thesis §5.3; Srinivas and Fleuret, ICLR 2021.
    """

    def __init__(
        self,
        weight=1e-3,
        sigma=0.01,
        samples=1,
        stability=1e-4,
        estimator="taylor",
        target="label",
        seed=0,
        name="score_matching",
        head=None,
        statistics=BATCH,
    ):
        super().__init__(weight, sigma, samples, estimator, target, seed, name, head, statistics)
        self.stability = number("stability", stability, zero=True)

    def compute(self, probe):
        """h + ½‖∇x f‖² + μ h² of each example, [batch]."""
        probe = self._probe(probe)
        gradient = probe.input_gradient(self.target)
        return losses.score_matching(gradient, self._trace(probe), self.stability)

    def get_config(self):
        """Constructor arguments."""
        return {**super().get_config(), "stability": self.stability}


@keras.saving.register_keras_serializable(PACKAGE)
class AntiScoreMatching(_TracePenalty):
    """−min(h, τ): the opposite of score matching, a control that spoils the density (§5.5).

    Args:
        weight: λ; 1e-4 in the text.
        sigma: σ of the noise.
        samples: N draws per example and step.
        threshold: τ, where the gradient becomes zero by design; 1000 in the text.
        estimator: see `trace`.
        target: whose logit; not `"all"`.
        seed: of the draws.
        name: of the metric.
        head: which output, of a network with several.
        statistics: `"batch"`: in training mode, where batch norm makes every
            logit depend on the noise in all images, and the trace is one over the whole batch; or
            `"running"`, a pass of its own in inference mode, whose logits depend on one image each.

    Raises:
        ArgumentError: an argument is out of its range.

    Source: thesis §5.5; Srinivas and Fleuret, ICLR 2021.
    """

    def __init__(
        self,
        weight=1e-4,
        sigma=0.01,
        samples=1,
        threshold=1000.0,
        estimator="taylor",
        target="label",
        seed=0,
        name="anti_score_matching",
        head=None,
        statistics=BATCH,
    ):
        super().__init__(weight, sigma, samples, estimator, target, seed, name, head, statistics)
        self.threshold = number("threshold", threshold)

    def compute(self, probe):
        """−min(h, τ) of each example, [batch]."""
        return losses.anti_score_matching(self._trace(self._probe(probe)), self.threshold)

    def get_config(self):
        """Constructor arguments."""
        return {**super().get_config(), "threshold": self.threshold}
