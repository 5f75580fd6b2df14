"""The gradient of a class's score with respect to the pixels, and its product with them."""

from __future__ import annotations

from typing import Any, Unpack

import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import number, one_of
from tfgrad.saliency.channels import ChannelReduced, in_float32
from tfgrad.saliency.options import MethodOptions

OF = ("logit", "loss", "log_probability")


class InputGradient(ChannelReduced):
    """The gradient of a class's score: s[h, w] = Σ_c |∂f_y/∂x[h, w, c]|.

    The map shows local sensitivity. It does not add up to the score and is zero where units are
    saturated; `FullGrad` and `IntegratedGradients` account for the score. Logit-gradients can be
    arbitrary while predictions, losses and the maps of `of="loss"` are unchanged, see
    `tfgrad.fooling.shared_shift`.

    Args:
        model: See `Method`.
        of: The differentiated scalar: `"logit"`, f_y; `"loss"`, −log softmax(f/T)_y; or
            `"log_probability"`, log softmax(f/T)_y.
        temperature: Softmax temperature T > 0, for `"loss"` and `"log_probability"` only. The
            gradient carries the factor 1/T of the chain rule.
        reduce: Reduction over a pixel's channels: `"abs_sum"`, the signed `"sum"`, `"max_abs"`, or
            `"deviation"`, their standard deviation, which the code of Fig. 5.3 takes (0 in images
            of one channel).
        **options: See `MethodOptions`.

    `explain` also returns `gradient` [B, …] float32, before the channels are reduced.

    Source: Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks" (2014), section 3,
    with `reduce="max_abs"`; the sum is thesis Eq. 5.7 before its normalisation. Loss-gradients and
    their temperature: thesis §5.2, Fig. 5.5.
    """

    name = "input_gradient"
    asks_gradients_alone = True

    def __init__(
        self,
        model: Any,
        of: str = "logit",
        temperature: float = 1.0,
        reduce: str = "abs_sum",
        **options: Unpack[MethodOptions],
    ) -> None:
        self.of = one_of("of", of, OF)
        self.temperature = number("temperature", temperature)
        if self.of == "logit" and self.temperature != 1.0:
            raise ArgumentError(
                f"temperature: got {temperature!r} with of='logit', which has no softmax; expected "
                "1; try of='loss' or of='log_probability'."
            )
        super().__init__(model, reduce, **options)

    def attribute(self, probe: Probe, target: Any) -> Any:
        """∇x of the scalar, shaped like x."""
        if self.of == "logit":
            return self.input_gradient(probe, target)
        gradient = self.input_gradient(
            probe, target, of="log_probability", temperature=self.temperature
        )
        if self.of != "loss":
            return gradient
        return tf.nest.map_structure(tf.negative, gradient)

    def extras(self, probe: Probe, target: Any, terms: Any) -> dict[str, Any]:
        """`gradient`, before the channels are reduced."""
        return {"gradient": in_float32(terms)}

    def options(self) -> dict[str, Any]:
        """`of`, `temperature`, `reduce`."""
        return {"of": self.of, "temperature": self.temperature, **super().options()}


class InputTimesGradient(ChannelReduced):
    """Pixels times their gradient: s[h, w] = Σ_c x[h, w, c] ∂f_y/∂x[h, w, c], signed.

    Σ_{h,w} s = f_y(x) for a piecewise linear network without biases (thesis Eq. 3.1); with biases
    use `FullGrad`, whose terms add up. Pixels of value 0 always get 0, so a map depends on how
    images are normalised.

    Args:
        model: See `Method`.
        reduce: Reduction over a pixel's channels: the signed `"sum"`, `"abs_sum"`, `"max_abs"` or
            `"deviation"`, their standard deviation.
        **options: See `MethodOptions`.

    Source: Shrikumar, Greenside and Kundaje, "Learning Important Features" (2017), section 3.1.
    """

    name = "input_times_gradient"
    asks_gradients_alone = True

    def __init__(
        self,
        model: Any,
        reduce: str = "sum",
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, reduce, **options)

    def attribute(self, probe: Probe, target: Any) -> Any:
        """x ⊙ ∇x f, shaped like x."""
        gradient = self.input_gradient(probe, target)
        values = tf.nest.pack_sequence_as(gradient, probe.differentiated)
        return tf.nest.map_structure(tf.multiply, values, gradient)
