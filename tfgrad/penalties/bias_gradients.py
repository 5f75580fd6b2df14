"""Penalties on bias-gradients, and full-gradient matching (thesis Chapter 4)."""

import keras
import tensorflow as tf

from tfgrad import losses
from tfgrad.errors import ArgumentError
from tfgrad.gradients import call_hooks, targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.penalties.attention import config_of, layer_pairs, names_of, of_one_size
from tfgrad.penalties.base import PACKAGE, Penalty
from tfgrad.penalties.logits_and_jacobians import JacobianMatching, shared_target, target_key


def bias_gradient(probe, call, target):
    """f^b = ∇_z f ⊙ b of one call, like z.

    Raises:
        ArgumentError: there was no such call.
    """
    if call not in probe.biases:
        raise ArgumentError(
            f"layers: network {probe.network.name!r} did not call {call!r} at top level of this "
            f"pass; calls on record: {list(probe.biases)}."
        )
    return probe.bias_gradients(target)[call]


def bias_gradient_map(probe, call, target):
    """Σ_c f^b of one call, [batch, height, width]."""
    gradient = bias_gradient(probe, call, target)
    if gradient.shape.rank != 4:
        raise ArgumentError(
            f"layers: {call!r} of network {probe.network.name!r} has bias-gradients of shape "
            f"{gradient.shape}; expected maps [batch, height, width, channels]. Name a convolution."
        )
    channels_first = keras.config.image_data_format() == "channels_first"
    return tf.reduce_sum(gradient, 1 if channels_first else -1)


@keras.saving.register_keras_serializable(PACKAGE)
class BiasGradientNorm(Penalty):
    """Σ_l ‖∇_{z_l} f ⊙ b_l‖²: dropout on biases in closed form (Prop. 10).

    Multiplicative noise of variance σ² on the biases raises the expected squared error by σ² times
    this, exactly where the network is affine (`tfgrad.layers.BiasNoise` is that noise).

    b is broadcast over positions before the norm. A convolution or dense layer that a batch norm
    alone reads makes one block with it, b = β + γ (b_conv − μ)/√(v + ε); see `tfgrad.biases`.

    By hand, f = 3 relu(2x + 1) + relu(x − 1) at x = 1, of the first unit's bias b = 1: z = 3 > 0,
    ∇_z f = 3, so (3 · 1)² = 9; the second unit is off and adds nothing.

    Args:
        weight: λ; 100 on a late convolution in Table 4.3.
        layers: names of dense layers, convolutions or batch norms; `conv:1` is the second call.
        target: whose logit f is; not `"all"`.
        head: which output, of a network with several.
        name: of the metric.

    Raises:
        ArgumentError: a layer is not there, or has no bias.

    Source: thesis §4.3.
    """

    def __init__(self, weight=1.0, layers=(), target="label", head=None, name="bias_gradient_norm"):
        super().__init__(weight, name, head)
        names = [layers] if isinstance(layers, str) else layers
        strings = isinstance(names, list | tuple) and all(isinstance(n, str) for n in names)
        if not strings or not names:
            raise ArgumentError(f"layers: got {layers!r}; expected a list of layer names.")
        self.layers = tuple(names)
        self.target = targets.validated(target, allow_all=False)

    def needs(self):
        """The layers' biases."""
        return Needs(biases=tuple(dict.fromkeys(map(call_hooks.layer_of, self.layers))))

    def compute(self, probe):
        """Squared bias-gradients of each example, summed over layers, [batch]."""
        return losses.squared_norm(
            [bias_gradient(probe, call, self.target) for call in self.layers]
        )

    def get_config(self):
        """Constructor arguments."""
        return {
            **super().get_config(),
            "layers": list(self.layers),
            "target": targets.to_config(self.target),
            "head": self.head,
        }


@keras.saving.register_keras_serializable(PACKAGE)
class BiasGradientMatching(Penalty):
    """Σ_l ‖n(Σ_c f^b_l) − n(Σ_c g^b_l)‖², n(v) = v/‖v‖₂ (Eq. 4.3).

    f^b = ∇_z f ⊙ b of the student, g^b of the teacher, summed over channels; where two maps differ
    in size the smaller is resized. Early layers help most (§4.7.2).

    By hand, two positions: Σ_c f^b = (3, 4), Σ_c g^b = (1, 0): (0.6, 0.8) − (1, 0) has the squared
    norm 0.16 + 0.64 = 0.8.

    Args:
        weight: λ; 10 in Tables 4.1 and 4.2.
        layers: names of convolutions of both networks, or (student, teacher) pairs; the papers take
            three, at three resolutions.
        target: `"label"`, `"predicted"` (the *teacher's* largest logit), a class, or one per
            example; not `"all"`.
        head: which output, of a network with several.
        name: of the metric.

    Raises:
        ArgumentError: a layer is not there, has no bias or no positions, or two maps do not fit.

    Source: thesis §4.2, §4.7.2.
    """

    def __init__(
        self, weight=1.0, layers=(), target="label", head=None, name="bias_gradient_matching"
    ):
        super().__init__(weight, name, head)
        self.layers = layer_pairs(layers)
        self.target = targets.validated(target, allow_all=False)

    def needs(self):
        """The student's biases."""
        return Needs(biases=names_of(self.layers, 0))

    def teacher_needs(self):
        """The teacher's biases."""
        return Needs(biases=names_of(self.layers, 1))

    def compute(self, probe):
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

    def get_config(self):
        """Constructor arguments."""
        return {
            **super().get_config(),
            "layers": config_of(self.layers),
            "target": targets.to_config(self.target),
            "head": self.head,
        }


def full_gradient_matching(weight=1.0, layers=(), target="label", head=None):
    """Full-gradient matching (§4.2): input-gradients and bias-gradients, one backward pass.

    Args:
        weight: λ of both.
        layers: of the bias-gradients; see `BiasGradientMatching`.
        target: of both.
        head: of both.

    Returns:
        [JacobianMatching, BiasGradientMatching], to be put among a model's penalties:

    ```python
    penalties = [ActivationMatching(10.0), *full_gradient_matching(10.0, layers)]
    ```
    """
    return [
        JacobianMatching(weight, target, head=head),
        BiasGradientMatching(weight, layers, target, head),
    ]
