"""One layer's bias-gradient, or one neuron's, as a map."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import one_of
from tfgrad.saliency import term_layout
from tfgrad.saliency.full_gradient_method import Decomposed


class LayerMap(Decomposed):
    """One layer call's bias-gradient as a map, of all its neurons or of one (thesis Fig. 3.1).

    s = resize(Σ_c f^b_l,c), signed, or resize(f^b_l,c) for one channel c.

    Args:
        model: see `Method`; takes images [B, H, W, C].
        call: the layer's name, name:1 for its second call, name/activation for the intercept of
            an activation fused into it; `"input"` for ∇x f ⊙ x. None: the last one with positions.
        neuron: a channel's index, or None for the sum over channels.
        resize: see `FullGrad`; None keeps the layer's own size [B, h, w].
        chunk_size: see `Method`.
    """

    name = "layer_map"

    def __init__(
        self,
        model: Any,
        call: str | None = None,
        neuron: int | None = None,
        resize: str | None = "bilinear",
        *,
        chunk_size: int | None = None,
    ) -> None:
        self.call, self.neuron = call, neuron
        self.resize = None if resize is None else one_of("resize", resize, term_layout.RESIZE)
        super().__init__(model, chunk_size=chunk_size)

    def attribute(self, probe: Probe, classes: tf.Tensor) -> tf.Tensor:
        """The one call's term, [B, h, w, C] or [B, h, w, 1]."""
        terms = super().attribute(probe, classes)
        call = list(terms)[-1] if self.call is None else self.call
        if call not in terms:
            raise ArgumentError(
                f"call: got {call!r}; of model {self.network.name!r} these have a bias-gradient "
                f"with positions: {', '.join(terms)}."
            )
        value = terms[call]
        if self.neuron is None:
            return value
        if not 0 <= self.neuron < value.shape[-1]:
            raise ArgumentError(
                f"neuron: got {self.neuron}; {call!r} has channels 0 to {value.shape[-1] - 1}."
            )
        return value[..., self.neuron : self.neuron + 1]

    def assemble(self, terms: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """The sum over channels, resized."""
        summed = tf.reduce_sum(terms, -1)
        return summed if self.resize is None else term_layout.at_size(summed, x, self.resize)

    def options(self) -> dict[str, Any]:
        """`call`, `neuron`, `resize`."""
        return {"call": self.call, "neuron": self.neuron, "resize": self.resize}
