"""The base class of methods that draw full-gradients: the terms with positions in the image."""

from __future__ import annotations

from typing import Any, Unpack

import tensorflow as tf

from tfgrad import decomposition
from tfgrad.errors import ModelError, TfgradError
from tfgrad.gradients import axes
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.intercepts import Intercept
from tfgrad.gradients.probe import Probe
from tfgrad.internal.precision import at_least_float32, of_one_dtype
from tfgrad.saliency import term_layout
from tfgrad.saliency.options import MethodOptions
from tfgrad.saliency.placed_method import CELLS, Placed
from tfgrad.saliency.placement import Laid, as_it_is

INPUT = "input"
_OTHER = "input#"  # and the place of an input among those that are not the main one


class Decomposed(Placed):
    """A method whose terms are ∇x f ⊙ x and one term per layer call, [B, *cells, C] each.

    Of several inputs, the terms of the calls are laid on the main one, the first of rank 4 or else
    of the highest rank; the map of another input is made of its own term alone.
    """

    _every = True

    def __init__(
        self,
        model: Any,
        placement: str = CELLS,
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, placement, **options)

    def needs(self) -> Needs:
        """The intercept of every call."""
        return decomposition.NEEDS

    def attribute(self, probe: Probe, target: Any) -> dict[str, tf.Tensor]:
        """{call name: its term [B, *cells, C]}, the input's under "input"; float32 or wider."""
        full = decomposition.of_probe(probe, target)
        found = self.explained(probe.x)
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
        self.locate(probe, target)
        gradients = probe.intercept_gradients(target)
        own = tf.nest.flatten(self.channels_last(self.input_terms(probe, target)))
        terms = {INPUT: own.pop(found.main)}
        terms |= {f"{_OTHER}{place}": term for place, term in enumerate(own)}
        for term, upper in zip(probe.intercepts, gradients, strict=True):
            if term.name not in full.bias_gradients:  # a call that is differentiated
                continue
            value = self.layer_term(term, full.bias_gradients[term.name], upper[0])
            laid_out = None if value is None else term_layout.on_grid(term, value, image, layouts)
            if laid_out is not None:
                terms[term.name] = laid_out
        return of_one_dtype(terms)

    def positioned(self, probe: Probe) -> dict[str, tuple[tf.Tensor, Laid]]:
        """The outputs of all calls that have a term."""
        image, layouts = self._laying(probe)

        def laid(term: Intercept) -> Laid:
            if term_layout.is_on_grid(term, image, layouts):
                return as_it_is
            return lambda values: term_layout.on_grid(term, values, image, layouts)

        calls = {at.call for at in probe.sources.at}
        return {
            term.name: (term.output, laid(term))
            for term in probe.intercepts
            if term.name not in calls
        }

    def _laying(self, probe: Probe) -> tuple[tf.Tensor, axes.Layouts]:
        """The main input [B, *positions, C], and the layouts of what the network makes of it."""
        found = self.explained(probe.x)
        x, layout = self.image(probe), self.layout_of_main(probe)
        return layout.channels_last(x), axes.Layouts(found.network, x, layout)

    def input_terms(self, probe: Probe, target: Any) -> Any:
        """∇x f ⊙ x, shaped like what is explained."""
        gradient = self.input_gradient(probe, target)
        values = tf.nest.pack_sequence_as(gradient, probe.differentiated)
        return tf.nest.map_structure(
            lambda g, x: at_least_float32(g) * at_least_float32(x), gradient, values
        )

    @staticmethod
    def of_main(terms: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """The terms of the main input and of the calls, and those of the other inputs in order."""
        others = [name for name in terms if name.startswith(_OTHER)]
        others.sort(key=lambda name: int(name.removeprefix(_OTHER)))
        of_main = {name: term for name, term in terms.items() if name not in others}
        return of_main, [terms[name] for name in others]

    def every_map(
        self, maps: dict[str, tf.Tensor], others: list[tf.Tensor] | None, x: Any, resize: str
    ) -> Any:
        """The maps of all inputs in their structure.

        Args:
            maps: {name: map} of the main input, which are laid on it and added up.
            others: The maps of the other inputs, in order; None leaves these out.
            x, resize: See `assemble` and `laid`.
        """
        main = self.main_of(x)
        laid = self.laid(maps, tf.nest.flatten(x)[main], resize)
        if others is None:
            return self.map_of_main(x, laid)
        return tf.nest.pack_sequence_as(x, [*others[:main], laid, *others[main:]])

    def term_sums(self, probe: Probe, target: Any) -> dict[str, Any]:
        """The sums of the terms of the decomposition, which was checked with them."""
        return decomposition.term_sums_of_probe(probe, target)

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
