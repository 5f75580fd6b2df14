"""The terms of a full-gradient decomposition: one intercept a call."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import tensorflow as tf

from tfgrad.internal.precision import at_least_float32

Kind = Literal["affine", "batch_norm", "activation", "residue"]


@dataclasses.dataclass(frozen=True)
class Intercept:
    """One call's output and intercept.

    Attributes:
        name: the call: the layer's name, name:1, name:2 for further calls of it; /activation for
            the activation fused into a layer, /1, /2 for further outputs of a call.
        kind: `"affine"` and `"batch_norm"`: a bias in the papers' sense. `"activation"`: the
            intercept φ(z) − φ′(z) z of an elementwise function. `"residue"`: of anything else.
        operation: the Keras layer or operation called.
        output: y, the tensor whose gradient the intercept is multiplied with.
        residue: the intercept, of a shape that broadcasts to y; None where `before` serves.
        before: z of an elementwise y = φ(z), a copy that φ alone reads, so that the term
            ∇_y f ⊙ (φ(z) − φ′(z) z) is ∇_y f ⊙ y − ∇_z f ⊙ z and φ′ need not be computed.
        inside: the layer in whose `call` this one was made; None in a graph of layers.
        whole: whether the call holds layers and had to be taken as one.
        source: the output that this call took, if it is another term's.
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
        """f^b = ∇_y f ⊙ (y − J·x), like y, in float32 or wider; zeros where f ignores the call.

        Args:
            gradients: of f with respect to `tensors`; None means zero.
        """
        y = at_least_float32(self.output)
        if gradients[0] is None:
            return tf.zeros_like(y)
        upper = at_least_float32(gradients[0])
        if self.before is None:
            return upper * at_least_float32(self.residue)
        lower = (
            0.0
            if gradients[1] is None
            else at_least_float32(gradients[1]) * at_least_float32(self.before)
        )
        return upper * y - lower


class Intercepts(list[Intercept]):
    """The intercepts of a forward pass, in call order.

    Attributes:
        differentiated: names of the layers and operations that took a Jacobian-vector product.
    """

    def __init__(self):
        super().__init__()
        self.differentiated: set[str] = set()
