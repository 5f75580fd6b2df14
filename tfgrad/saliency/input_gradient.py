"""The gradient of a class's score with respect to the pixels, and its product with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import number, one_of
from tfgrad.saliency.base import Method, over_channels

OF = ("logit", "loss", "log_probability")

# What becomes of a pixel's channels.
REDUCE: dict[str, Callable[..., tf.Tensor]] = {
    "abs_sum": lambda g, axis: tf.reduce_sum(tf.abs(g), axis),
    "sum": tf.reduce_sum,
    "max_abs": lambda g, axis: tf.reduce_max(tf.abs(g), axis),
    "deviation": tf.math.reduce_std,
}


class InputGradient(Method):
    """The gradient of a class's score: s[h, w] = Σ_c |∂f_y/∂x[h, w, c]|.

    Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks" (2014), section 3, who
    take the largest channel (`reduce="max_abs"`); the sum is the thesis's, Eq. 5.7 before its
    normalisation. Loss-gradients and their temperature: thesis §5.2, Fig. 5.5.

    Args:
        model: see `Method`.
        of: what is differentiated: the `"logit"` f_y; the `"loss"` −log softmax(f/T)_y; or the
            `"log_probability"` log softmax(f/T)_y.
        temperature: T > 0 of the softmax; for `"loss"` and `"log_probability"` only. The gradient
            carries the factor 1/T of the chain rule.
        reduce: over a pixel's channels: `"abs_sum"`, the signed `"sum"`, `"max_abs"`, or their
            standard `"deviation"`, which the code of Fig. 5.3 takes (0 in images of one channel).
        chunk_size: see `Method`.

    `explain` also returns `gradient` [B, …] float32, as it was before the channels were reduced.
    """

    name = "input_gradient"

    def __init__(
        self,
        model: Any,
        of: str = "logit",
        temperature: float = 1.0,
        reduce: str = "abs_sum",
        *,
        chunk_size: int | None = None,
    ) -> None:
        self.of = one_of("of", of, OF)
        self.temperature = number("temperature", temperature)
        self.reduce = one_of("reduce", reduce, REDUCE)
        if self.of == "logit" and self.temperature != 1.0:
            raise ArgumentError(
                f"temperature: got {temperature!r} with of='logit', which has no softmax; expected "
                "1. Use of='loss' or of='log_probability'."
            )
        super().__init__(model, chunk_size=chunk_size)

    def attribute(self, probe: Probe, classes: tf.Tensor) -> tf.Tensor:
        """∇x of the scalar, shaped like x."""
        if self.of == "logit":
            return single(probe.input_gradient(classes))
        gradient = probe.input_gradient(classes, of="log_probability", temperature=self.temperature)
        return -single(gradient) if self.of == "loss" else single(gradient)

    def assemble(self, terms: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """The channels reduced."""
        return over_channels(terms, REDUCE[self.reduce])

    def extras(self, probe: Probe, classes: tf.Tensor, terms: tf.Tensor) -> dict[str, tf.Tensor]:
        """The gradient itself."""
        return {"gradient": tf.cast(terms, tf.float32)}

    def options(self) -> dict[str, Any]:
        """`of`, `temperature`, `reduce`."""
        return {"of": self.of, "temperature": self.temperature, "reduce": self.reduce}


class InputTimesGradient(Method):
    """Pixels times their gradient: s[h, w] = Σ_c x[h, w, c] ∂f_y/∂x[h, w, c], signed.

    Σ_{h,w} s = f_y(x) for a piecewise linear network without biases (thesis Eq. 3.1). Shrikumar,
    Greenside and Kundaje, "Learning Important Features" (2017), section 3.1, name it.

    Args:
        model: see `Method`.
        reduce: over a pixel's channels: the signed `"sum"`, `"abs_sum"`, `"max_abs"` or
            `"deviation"`.
        chunk_size: see `Method`.
    """

    name = "input_times_gradient"

    def __init__(self, model: Any, reduce: str = "sum", *, chunk_size: int | None = None) -> None:
        self.reduce = one_of("reduce", reduce, REDUCE)
        super().__init__(model, chunk_size=chunk_size)

    def attribute(self, probe: Probe, classes: tf.Tensor) -> tf.Tensor:
        """x ⊙ ∇x f, shaped like x."""
        return self.image(probe) * single(probe.input_gradient(classes))

    def assemble(self, terms: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """The channels reduced."""
        return over_channels(terms, REDUCE[self.reduce])

    def options(self) -> dict[str, Any]:
        """`reduce`."""
        return {"reduce": self.reduce}


def single(gradient: Any) -> tf.Tensor:
    """The gradient of the one input, out of the structure in which a probe returns it."""
    return tf.nest.flatten(gradient)[0]
