"""What methods that draw full-gradients share: the terms with positions in the image."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgrad import decomposition
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.intercepts import Intercept
from tfgrad.gradients.probe import Probe
from tfgrad.internal.precision import at_least_float32
from tfgrad.saliency import term_layout
from tfgrad.saliency.base import Method

INPUT = "input"


class Decomposed(Method):
    """A method whose terms are ∇x f ⊙ x and one term per layer call, [B, h, w, C] each."""

    def __init__(self, model: Any, *, chunk_size: int | None = None) -> None:
        super().__init__(model, chunk_size=chunk_size)
        if self.input_shape is not None and len(self.input_shape) != 4:
            raise ArgumentError(
                f"model {self.network.name!r}: got inputs of shape {self.input_shape}; "
                f"{type(self).__name__} lays layers over an image [batch, height, width, "
                "channels]. tfgrad.full_gradients decomposes the score for any input."
            )

    def needs(self) -> Needs:
        """Every call's intercept."""
        return decomposition.NEEDS

    def attribute(self, probe: Probe, classes: tf.Tensor) -> dict[str, tf.Tensor]:
        """{call name: its term [B, h, w, C]}, the input's under "input"; float32 or wider."""
        full = decomposition.of_probe(probe, classes)
        image = self.image(probe)
        if image.shape.rank != 4:
            raise ArgumentError(
                f"x: got shape {image.shape}; {type(self).__name__} needs images [batch, height, "
                "width, channels]."
            )
        for term in probe.intercepts:
            if term.whole:
                raise ModelError(
                    f"layer {term.operation.name!r} ({type(term.operation).__name__}): it runs "
                    "other layers where they cannot be followed (tf.cond, tf.while_loop or "
                    "tf.map_fn in a graph) and was taken as one, so these have no maps. Put what "
                    "loops or branches into a layer of its own, or use tfgrad.full_gradients."
                )
        gradients = probe.intercept_gradients(classes)
        terms = {INPUT: self.input_term(probe, classes)}
        for term, upper in zip(probe.intercepts, gradients, strict=True):
            value = self.layer_term(term, full.bias_gradients[term.name], upper[0])
            laid_out = None if value is None else term_layout.on_grid(term, value, image)
            if laid_out is not None:
                terms[term.name] = laid_out
        return terms

    def input_term(self, probe: Probe, classes: tf.Tensor) -> tf.Tensor:
        """∇x f ⊙ x, like the image."""
        (gradient,) = tf.nest.flatten(probe.input_gradient(classes))
        return at_least_float32(gradient) * at_least_float32(self.image(probe))

    def layer_term(self, term: Intercept, value: tf.Tensor, gradient: Any) -> tf.Tensor | None:
        """A call's bias-gradient f^b, like its output; None leaves the call out.

        Args:
            term: the call.
            value: its f^b.
            gradient: ∇_z f, None where f ignores the call.
        """
        return value
