"""The base class of methods that draw full-gradients: the terms with positions in the image."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgrad import decomposition
from tfgrad.errors import ModelError, TfgradError
from tfgrad.gradients import axes
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.intercepts import Intercept
from tfgrad.gradients.probe import Probe
from tfgrad.internal.precision import at_least_float32, of_one_dtype
from tfgrad.saliency import term_layout
from tfgrad.saliency.placed_method import CELLS, Placed
from tfgrad.saliency.placement import Laid

INPUT = "input"


class Decomposed(Placed):
    """A method whose terms are ∇x f ⊙ x and one term per layer call, [B, *cells, C] each."""

    def __init__(
        self,
        model: Any,
        placement: str = CELLS,
        *,
        chunk_size: int | None = None,
        outputs: Any = None,
        channels: str | None = None,
    ) -> None:
        super().__init__(
            model, placement, chunk_size=chunk_size, outputs=outputs, channels=channels
        )

    def needs(self) -> Needs:
        """The intercept of every call."""
        return decomposition.NEEDS

    def attribute(self, probe: Probe, classes: tf.Tensor) -> dict[str, tf.Tensor]:
        """{call name: its term [B, *cells, C]}, the input's under "input"; float32 or wider."""
        full = decomposition.of_probe(probe, classes)
        image, layouts = self._laying(probe)
        for term in probe.intercepts:
            if term.whole:
                raise ModelError(
                    f"layer {term.operation.name!r} ({type(term.operation).__name__}): got calls "
                    "of other layers inside tf.cond, tf.while_loop or tf.map_fn in a graph, where "
                    "they cannot be followed and have no maps of their own; expected layers that "
                    "are called outside of these; try a separate layer for what loops or "
                    "branches, or tfgrad.full_gradients."
                )
        self.locate(probe)
        gradients = probe.intercept_gradients(classes)
        terms = {INPUT: self.channels_last(self.input_term(probe, classes))}
        for term, upper in zip(probe.intercepts, gradients, strict=True):
            value = self.layer_term(term, full.bias_gradients[term.name], upper[0])
            laid_out = None if value is None else term_layout.on_grid(term, value, image, layouts)
            if laid_out is not None:
                terms[term.name] = laid_out
        return of_one_dtype(terms)

    def positioned(self, probe: Probe) -> dict[str, tuple[tf.Tensor, Laid]]:
        """The outputs of all calls that have a term."""
        image, layouts = self._laying(probe)

        def laid(term: Intercept) -> Laid:
            return lambda values: term_layout.on_grid(term, values, image, layouts)

        return {term.name: (term.output, laid(term)) for term in probe.intercepts}

    def _laying(self, probe: Probe) -> tuple[tf.Tensor, axes.Layouts]:
        """The inputs [B, *positions, C], and the layouts of what the network makes of them."""
        x = self.image(probe)
        layout = self.layout(x)
        return layout.channels_last(x), axes.Layouts(self.network, x, layout)

    def input_term(self, probe: Probe, classes: tf.Tensor) -> tf.Tensor:
        """∇x f ⊙ x, shaped like the image."""
        gradient = at_least_float32(self.input_gradient(probe, classes))
        return gradient * at_least_float32(self.image(probe))

    def layer_term(self, term: Intercept, value: tf.Tensor, gradient: Any) -> tf.Tensor | None:
        """The term of a call, by default its bias-gradient f^b; None leaves the call out.

        Args:
            term: The intercept of the call.
            value: The call's f^b, shaped like its output.
            gradient: ∇_z f; None where f does not depend on the call.
        """
        return value

    def translated(self, error: tf.errors.InvalidArgumentError) -> TfgradError | None:
        """A `ModelError` if the terms of the decomposition do not add up to the logit."""
        if decomposition.MISSES in error.message:
            return ModelError(decomposition.misses(self.network))
        return super().translated(error)
