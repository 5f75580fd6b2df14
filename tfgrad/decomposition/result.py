"""The full-gradients of a scalar as a result."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfgrad.gradients.intercepts import Intercept, TermSums
from tfgrad.internal.precision import at_least_float32

# The largest allowed error of the sum, relative to the score and the terms' sums: terms of 1e9 that
# cancel have a rounding that hides what is summed.
_HIDDEN = 0.05


@dataclasses.dataclass(frozen=True, repr=False)
class FullGradients:
    """The full-gradients of a logit, or of another scalar of the outputs, at x.

    Attributes:
        score: f(x), [batch].
        classes: The class whose logit f is, int32 [batch]; None where f is no logit.
        x: The inputs, as the model took them; of token ids, their embeddings.
        input_gradient: ∇x f in x's structure, from which integer inputs are left out: of
            {"image": float, "tokens": int} it is {"image": ∇x f}, of a list of both a list of one.
        bias_gradients: {call name: ∇_{z_l} f ⊙ b_l, like the call's output} in call order. A call
            whose intercept is zero by its kind (ReLU, pooling, a sum, …) has no entry. A further
            call of a layer is name:1, name:2; an activation fused into a layer name/activation;
            a further output of a call name/1; "target" the intercept of the scalar's own arithmetic
            on the outputs, [batch]. Float32 or wider.
        intercepts: The layer, kind and residue of each entry, in the same order.
        rounding: The largest allowed error of the sum, relative to the sum of the terms' sizes.
    """

    score: tf.Tensor
    classes: tf.Tensor | None
    x: Any
    input_gradient: Any
    bias_gradients: dict[str, tf.Tensor]
    intercepts: tuple[Intercept, ...] = ()
    rounding: float = 1e-4

    @property
    def input_term(self) -> Any:
        """∇x f ⊙ x in the structure of `input_gradient`; its sum is the input's share of f."""
        pairs = zip(tf.nest.flatten(self.input_gradient), self.float_inputs(), strict=True)
        products = [at_least_float32(g) * at_least_float32(t) for g, t in pairs]
        return tf.nest.pack_sequence_as(self.input_gradient, products)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{n}: {list(t.shape)}" for n, t in self.bias_gradients.items())
        inputs = tf.nest.map_structure(lambda t: list(t.shape), self.input_gradient)
        return f"FullGradients(score={self.score}, input_gradient: {inputs}, {shapes})"

    def total(self) -> tf.Tensor:
        """∇x f · x + Σ_l ∇_{z_l} f · b_l, [batch], which equals `score` up to rounding."""
        return self.sums().total

    def completeness_error(self) -> tf.Tensor:
        """abs(score − total) / max(abs(score), 1e-6), [batch]."""
        return self.sums().error()

    def adds_up(self, each: bool = False, *, sums: TermSums | None = None) -> tf.Tensor:
        """Whether the terms sum to the score up to rounding; with `each` per example, [batch].

        Rounding is relative to the sum of the terms' sizes. Terms so large that it could be as
        large as what is summed (of constants such as −1e9 that cancel) count as a failure, as do
        NaN and infinite values.

        Args:
            each: Whether the answer is one for each example.
            sums: The result of `sums`; None computes it.
        """
        sums = sums or self.sums()
        error, score = tf.abs(self.score - sums.total), tf.abs(self.score)
        hidden = max(_HIDDEN, 5 * self.rounding)
        fine = error <= self.rounding * (score + sums.size)
        fine &= error <= hidden * (score + sums.largest)
        fine &= tf.math.is_finite(error)
        return fine if each else tf.reduce_all(fine)

    def sums(self) -> TermSums:
        """The sums of all terms over each example's entries, computed anew in every call."""
        terms = [*tf.nest.flatten(self.input_term), *self.bias_gradients.values()]
        return TermSums(terms, self.score)

    def float_inputs(self) -> list[tf.Tensor]:
        """The inputs that were differentiated, in order."""
        return [t for t in tf.nest.flatten(self.x) if t.dtype.is_floating]
