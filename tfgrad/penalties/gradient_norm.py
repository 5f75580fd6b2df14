"""Gradient-norm penalties: robustness to input noise without the noise (thesis Chapter 2)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfgrad import losses
from tfgrad.errors import ArgumentError
from tfgrad.gradients import targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import one_of
from tfgrad.penalties.base import PACKAGE, Penalty, at_config, checked_at, is_of_classes

LOSSES = ("squared_error", "cross_entropy")


@keras.saving.register_keras_serializable(PACKAGE)
class GradientNorm(Penalty):
    """Σ_k ‖∇x S^k(x)‖² (Prop. 2), or the term of one logit; ‖∇x log S_s^y(x)‖² (Eq. 2.3).

    Args:
        weight: λ; Table 2.2 sweeps 0, .01, .1, 1, 10.
        target: `"label"` (the papers' heuristic, §2.4.1), `"predicted"`, `"all"`, a class, one
            class per example, or any other scalar of the outputs; see `tfgrad.targets`.
        loss: `"squared_error"`: gradients of logits. `"cross_entropy"`: gradients of the
            log-probability of one class, so that target `"all"` raises: log-softmax, or log σ(±f)
            of one logit of two classes, or log σ(f_k) of an independent label.
        name: Name of the metric.
        head: Output of a network with several.
        at: Layers whose outputs are differentiated beside float inputs, such as the embeddings of
            token ids: names, or True for those of all integer inputs. None: float inputs alone,
            and embeddings where there are none.

    Raises:
        ArgumentError: An argument is none of these.

    Example:

    ```python
    model = tfgrad.PenalizedModel(network, [tfgrad.penalties.GradientNorm(0.1)])
    ```

    Source: S. Srinivas, thesis §2.4; Srinivas and Fleuret, ICML 2018.
    """

    def __init__(
        self,
        weight: Any = 1.0,
        target: Any = "label",
        loss: str = "squared_error",
        name: str | None = "gradient_norm",
        head: Any = None,
        *,
        at: Any = None,
    ) -> None:
        super().__init__(weight, name, head)
        self.loss = one_of("loss", loss, LOSSES)
        if loss == "cross_entropy" and isinstance(target, str) and target == "all":
            raise ArgumentError(
                "target: got 'all' with loss='cross_entropy'; expected one class, for which alone "
                "Eq. 2.3 holds. Use target='label' or 'predicted'."
            )
        self.target, self.at = targets.validated(target), checked_at(at)
        if loss == "cross_entropy" and isinstance(self.target, targets.Target):
            raise ArgumentError(
                f"target: got {self.target!r} with loss='cross_entropy', which is that of a class; "
                "expected 'label', 'predicted' or a class. Use loss='squared_error' for any scalar."
            )

    @property
    def reads_classes(self) -> bool:
        """Whether it differentiates a probability; a squared norm does not depend on the sign."""
        return self.loss == "cross_entropy"

    def needs(self) -> Needs:
        """The full Jacobian for target `"all"`."""
        return Needs(jacobian=self._all(), logits=is_of_classes(self.target), at=self.at or False)

    def compute(self, probe: Probe) -> tf.Tensor:
        """‖∇x‖² of each example, [batch]."""
        if self._all():
            return sum(losses.squared_norm(row) for row in probe.input_jacobian())
        of = "logit" if self.loss == "squared_error" else "log_probability"
        return losses.squared_norm(probe.input_gradient(self.target, of))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "target": targets.to_config(self.target),
            "loss": self.loss,
            "at": at_config(self.at),
        }

    def _all(self) -> bool:
        return isinstance(self.target, str) and self.target == "all"
