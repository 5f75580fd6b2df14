"""The terms of a full-gradient decomposition: one intercept per call."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import tensorflow as tf

from tfgrad.internal.precision import at_least_float32

Kind = Literal["affine", "batch_norm", "activation", "arithmetic", "residue"]


@dataclasses.dataclass(frozen=True)
class Intercept:
    """One call's output and intercept.

    Attributes:
        name: The call's name: the layer's, name:1, name:2 for further calls of it; /activation for
            the activation fused into a layer, /1, /2 for further outputs of a call; /arithmetic,
            /arithmetic:1, … for what the code of a layer's `call` does before a call inside it.
        kind: `"affine"` and `"batch_norm"` for a bias in the papers' sense, and nothing else;
            `"activation"` for the intercept φ(z) − φ′(z) z of an elementwise function;
            `"arithmetic"` for that of hand-written code before a call of one of these kinds, or
            before a call with layers inside; `"residue"` for any other, of which that of a call
            inside a layer includes the arithmetic before it.
        operation: The Keras layer or operation called; for `"arithmetic"` the one that takes y.
        output: y, the tensor whose gradient is multiplied by the intercept.
        residue: The intercept, of a shape that broadcasts to y; None where `before` is given.
        before: z of an elementwise y = φ(z) other than ReLU6, a copy that φ alone reads, so that
            the term ∇_y f ⊙ (φ(z) − φ′(z) z) is ∇_y f ⊙ y − ∇_z f ⊙ z and φ′ is not computed.
        inside: The layer in whose `call` this call was made; None in a graph of layers.
        whole: Whether the call contains layers and was differentiated as a single one.
        source: The index of the term whose output this call took, if there is one.
    """

    name: str
    kind: Kind
    operation: Any
    output: tf.Tensor
    residue: tf.Tensor | None = None
    before: tf.Tensor | None = None
    inside: Any = None
    whole: bool = False
    source: int | None = None

    @property
    def tensors(self) -> list[tf.Tensor]:
        """What must be differentiated: y, and z if there is one."""
        return [self.output] if self.before is None else [self.output, self.before]

    def term(self, gradients: list[Any]) -> tf.Tensor:
        """f^b = ∇_y f ⊙ (y − J·x), like y, in float32 or wider; zeros if f ignores it.

        Of a complex y it is real: TensorFlow's gradient g is that for which df = Re(ḡ dy).

        Args:
            gradients: ∂f/∂t for each t of `tensors`; None means zero.
        """
        y = at_least_float32(self.output)
        if gradients[0] is None:
            return tf.zeros_like(tf.math.real(y))
        upper = at_least_float32(gradients[0])
        if self.before is None:
            return _product(upper, at_least_float32(self.residue))
        # An infinite z that f ignores (a masked score) contributes 0.
        if gradients[1] is None:
            return _product(upper, y)
        before, lower = at_least_float32(self.before), at_least_float32(gradients[1])
        return _product(upper, y) - _product_no_nan(lower, before)


class Intercepts(list[Intercept]):
    """The intercepts of a forward pass, in call order.

    Attributes:
        differentiated: Names of the layers and operations for which a Jacobian-vector product was
            computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.differentiated: set[str] = set()


def _product(gradient: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Re(ḡ v) of every entry."""
    if gradient.dtype.is_complex:
        return tf.math.real(tf.math.conj(gradient) * values)
    return gradient * values


def _product_no_nan(gradient: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """`_product`, 0 where the gradient is 0."""
    if gradient.dtype.is_complex:
        return tf.math.real(tf.math.multiply_no_nan(values, tf.math.conj(gradient)))
    return tf.math.multiply_no_nan(values, gradient)
