"""Penalties on bias-gradients, and full-gradient matching (thesis Chapter 4)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfgrad import losses
from tfgrad.errors import ArgumentError
from tfgrad.gradients import targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal import call_hooks
from tfgrad.penalties.base import PACKAGE, Penalty, is_of_classes
from tfgrad.penalties.feature_maps import laid_out, of_one_size
from tfgrad.penalties.layer_pairs import checked_pairs, config_of, names_of
from tfgrad.penalties.logits_and_jacobians import JacobianMatching, shared_target, target_key


def bias_gradient(probe: Probe, call: str, target: Any) -> tf.Tensor:
    """f^b = ∇_z f ⊙ b of one call, like z.

    Raises:
        ArgumentError: There was no such call.
    """
    if call not in probe.biases:
        raise ArgumentError(
            f"layers: got {call!r}, which network {probe.network.name!r} did not call at top level "
            f"of this pass; expected one of {list(probe.biases)}."
        )
    return probe.bias_gradients(target)[call]


def bias_gradient_map(probe: Probe, call: str, target: Any) -> tf.Tensor:
    """Σ_c f^b of one call, [batch, *positions].

    Raises:
        ArgumentError: There was no such call, or its output is no map.
    """
    gradient = bias_gradient(probe, call, target)
    return tf.reduce_sum(laid_out(probe, call, gradient, "bias-gradients"), -1)


@keras.saving.register_keras_serializable(PACKAGE)
class BiasGradientNorm(Penalty):
    """Σ_l ‖∇_{z_l} f ⊙ b_l‖²: dropout on biases in closed form (Prop. 10).

    Multiplicative noise of variance σ² on the biases raises the expected squared error by σ² times
    this, exactly where the network is affine (`tfgrad.layers.BiasNoise` is that noise).

    b is broadcast over positions before the norm. A convolution or dense layer whose output only a
    batch norm reads forms one block with it, b = β + γ (b_conv − μ)/√(v + ε); see
    `tfgrad.gradients.layer_biases`.

    By hand, f = 3 relu(2x + 1) + relu(x − 1) at x = 1, for the first unit's bias b = 1: z = 3 > 0,
    ∇_z f = 3, so (3 · 1)² = 9; the second unit is off and adds nothing.

    Args:
        weight: λ; 100 on a late convolution in Table 4.3.
        layers: Names of dense layers, convolutions or batch norms; `conv:1` is the second call.
        target: The logit f, see `tfgrad.targets`; not `"all"`.
        head: Output of a network with several.
        name: Name of the metric.
        every: k: training computes it at each k-th step alone, with the weight k λ; see `Penalty`.

    Raises:
        ArgumentError: A layer does not exist, or has no bias.

    Source: thesis §4.3.
    """

    def __init__(
        self,
        weight: Any = 1.0,
        layers: Any = (),
        target: Any = "label",
        head: Any = None,
        name: str | None = "bias_gradient_norm",
        *,
        every: int = 1,
    ) -> None:
        super().__init__(weight, name, head, every=every)
        names = [layers] if isinstance(layers, str) else layers
        strings = isinstance(names, list | tuple) and all(isinstance(n, str) for n in names)
        if not strings or not names:
            raise ArgumentError(f"layers: got {layers!r}; expected a list of layer names.")
        self.layers = tuple(names)
        self.target = targets.validated(target, allow_all=False)

    def needs(self) -> Needs:
        """The layers' biases."""
        layers = tuple(dict.fromkeys(map(call_hooks.layer_of, self.layers)))
        return Needs(biases=layers, logits=is_of_classes(self.target))

    def compute(self, probe: Probe) -> tf.Tensor:
        """Squared bias-gradients of each example, summed over layers, [batch]."""
        return losses.squared_norm(
            [bias_gradient(probe, call, self.target) for call in self.layers]
        )

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "layers": list(self.layers),
            "target": targets.to_config(self.target),
        }


@keras.saving.register_keras_serializable(PACKAGE)
class BiasGradientMatching(Penalty):
    """Σ_l ‖n(Σ_c f^b_l) − n(Σ_c g^b_l)‖², n(v) = v/‖v‖₂ (Eq. 4.3).

    f^b = ∇_z f ⊙ b of the student, g^b of the teacher, summed over channels; if two maps differ
    in size, the smaller is resized. Early layers help most (§4.7.2).

    By hand, two positions: Σ_c f^b = (3, 4), Σ_c g^b = (1, 0): (0.6, 0.8) − (1, 0) has the squared
    norm 0.16 + 0.64 = 0.8.

    Args:
        weight: λ; 10 in Tables 4.1 and 4.2.
        layers: Names of convolutions of both networks, or (student, teacher) pairs; the papers take
            three, at three resolutions.
        target: `"label"`, `"predicted"` (the *teacher's* largest logit), a class, one per example,
            or any other scalar of the outputs, see `tfgrad.targets`; not `"all"`.
        head: Output of a network with several.
        name: Name of the metric.
        every: k: training computes it at each k-th step alone, with the weight k λ; see `Penalty`.

    Raises:
        ArgumentError: A layer does not exist, has no bias or no positions, or two maps do not fit.

    Source: thesis §4.2, §4.7.2.
    """

    def __init__(
        self,
        weight: Any = 1.0,
        layers: Any = (),
        target: Any = "label",
        head: Any = None,
        name: str | None = "bias_gradient_matching",
        *,
        every: int = 1,
    ) -> None:
        super().__init__(weight, name, head, every=every)
        self.layers = checked_pairs(layers)
        self.target = targets.validated(target, allow_all=False)

    def needs(self) -> Needs:
        """The student's biases."""
        return Needs(biases=names_of(self.layers, 0), logits=is_of_classes(self.target))

    def teacher_needs(self) -> Needs:
        """The teacher's biases."""
        return Needs(biases=names_of(self.layers, 1), logits=is_of_classes(self.target))

    def compute(self, probe: Probe) -> tf.Tensor:
        """The distance of the maps' directions of each example, summed over layers, [batch]."""
        target = shared_target(probe, self.target)
        total = 0.0
        for student, teacher in self.layers:
            taught = probe.teacher.recall(
                f"bias gradient/{teacher}/{target_key(self.target)}",
                lambda t, teacher=teacher: bias_gradient_map(t, teacher, target),
            )
            own = bias_gradient_map(probe, student, target)
            own, taught = of_one_size(own, tf.cast(taught, own.dtype), (student, teacher))
            total += losses.distance_of_directions(own, taught)
        return total

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "layers": config_of(self.layers),
            "target": targets.to_config(self.target),
        }


def full_gradient_matching(
    weight: Any = 1.0, layers: Any = (), target: Any = "label", head: Any = None
) -> list[Penalty]:
    """Full-gradient matching (§4.2): input-gradients and bias-gradients, in one backward pass.

    Args:
        weight: λ of both penalties.
        layers: Layers of the bias-gradients; see `BiasGradientMatching`.
        target: Target of both penalties.
        head: Head of both penalties.

    Returns:
        [JacobianMatching, BiasGradientMatching], two entries of a model's list of penalties:

    ```python
    penalties = [ActivationMatching(10.0), *full_gradient_matching(10.0, layers)]
    ```
    """
    return [
        JacobianMatching(weight, target, head=head),
        BiasGradientMatching(weight, layers, target, head),
    ]
