"""The bias-gradient of one layer, or of one of its channels, as a map."""

from __future__ import annotations

from typing import Any, Unpack

import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import one_of
from tfgrad.saliency import term_layout
from tfgrad.saliency.full_gradient_method import Decomposed
from tfgrad.saliency.options import MethodOptions
from tfgrad.saliency.placed_method import CELLS


class LayerMap(Decomposed):
    """The bias-gradient of one layer call as a map, of all its channels or of one.

    s = resize(Σ_c f^b_l,c), signed, or resize(f^b_l,c) for one channel c. It is one term of the
    decomposition and does not explain the score by itself; `FullGrad` combines all of them.

    Args:
        model: See `Method`; takes images, series or volumes.
        call: Name of the layer, `name:1` for its second call, `name/activation` for the intercept
            of an activation fused into it; `"input"` for ∇x f ⊙ x. None takes the last call with
            positions.
        neuron: Index of the channel; None sums over channels.
        resize: See `FullGrad`; None keeps the layer's own size [B, h, w].
        placement: See `FullGrad`.
        **options: See `MethodOptions`.

    Raises:
        ArgumentError: At the first call, if there is no such call or channel.

    Source: thesis Fig. 3.1.
    """

    name = "layer_map"

    def __init__(
        self,
        model: Any,
        call: str | None = None,
        neuron: int | None = None,
        resize: str | None = "bilinear",
        *,
        placement: str = CELLS,
        **options: Unpack[MethodOptions],
    ) -> None:
        self.call, self.neuron = call, neuron
        self.resize = None if resize is None else one_of("resize", resize, term_layout.RESIZE)
        super().__init__(model, placement, **options)
        self._drawn: dict[tuple[int | None, ...], str] = {}  # the call, by the size of an image

    def attribute(self, probe: Probe, target: Any) -> tf.Tensor:
        """The term of the call, [B, *cells, C], or of one channel, [B, *cells, 1]."""
        terms, _ = self.of_main(super().attribute(probe, target))
        call = list(terms)[-1] if self.call is None else self.call
        if call not in terms:
            raise ArgumentError(
                f"call: got {call!r}; expected one of the calls of model {self.network.name!r} "
                f"that have a bias-gradient with positions: {', '.join(terms)}."
            )
        image = self.image(probe)
        self._drawn[self.layout_of_main(probe).sizes(image.shape.as_list())] = call
        value = terms[call]
        if self.neuron is None:
            return value
        if not 0 <= self.neuron < value.shape[-1]:
            raise ArgumentError(
                f"neuron: got {self.neuron}; expected a channel of {call!r}, 0 to "
                f"{value.shape[-1] - 1}."
            )
        return value[..., self.neuron : self.neuron + 1]

    def assemble(self, terms: tf.Tensor, x: Any) -> Any:
        """The sum over channels, laid on the image."""
        summed = tf.reduce_sum(terms, -1)
        if self.resize is not None:
            main = tf.nest.flatten(x)[self.main_of(x)]
            summed = self.laid({self._drawn[tuple(main.shape[1:-1])]: summed}, main, self.resize)
        return self.map_of_main(x, summed)

    def options(self) -> dict[str, Any]:
        """`call`, `neuron`, `resize`, `placement`."""
        return {
            "call": self.call,
            "neuron": self.neuron,
            "resize": self.resize,
            "placement": self.placement,
        }
