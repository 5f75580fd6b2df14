"""The full-Jacobian map, and the map of the bias-gradients only."""

from __future__ import annotations

from typing import Any, Unpack

import tensorflow as tf

from tfgrad.errors import ModelError
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import one_of
from tfgrad.saliency import term_layout, zero_maps
from tfgrad.saliency.full_gradient_method import INPUT, Decomposed
from tfgrad.saliency.options import MethodOptions
from tfgrad.saliency.placed_method import CELLS


class FullJacobianMap(Decomposed):
    """s = abs(∇x f ⊙ x) + Σ_l resize(abs(Σ_c f^b_l,c)), channels summed before abs.

    In the input's term, abs is taken before the sum over colours. Terms of channels with opposite
    signs cancel; use `FullGrad`, which takes abs first, where that hides what counts.

    Args:
        model: See `Method`; takes images, series or volumes.
        blocks: Whether a convolution and the batch normalisation after it form one term, as in
            §7.3, instead of two.
        include_input: Whether the input's term is included; without it, see `BiasMap`.
        resize, placement: See `FullGrad`.
        **options: See `MethodOptions`.

    Raises:
        ModelError: At the first call, if there is no input's term and no layer with a bias.

    Source: Srinivas and Fleuret, "Full-Jacobian Representation of Neural Networks", Eq. 4.
    """

    name = "full_jacobian_map"

    def __init__(
        self,
        model: Any,
        blocks: bool = False,
        include_input: bool = True,
        resize: str = "bilinear",
        *,
        placement: str = CELLS,
        **options: Unpack[MethodOptions],
    ) -> None:
        self.blocks, self.include_input = bool(blocks), bool(include_input)
        self.resize = one_of("resize", resize, term_layout.RESIZE)
        super().__init__(model, placement, **options)

    def attribute(self, probe: Probe, target: Any) -> dict[str, tf.Tensor]:
        """The terms, those of a block added up if `blocks` is set."""
        terms = super().attribute(probe, target)
        if not self.include_input:
            terms, _ = self.of_main(terms)
            del terms[INPUT]
            if not terms:
                raise ModelError(
                    f"model {self.network.name!r}: got no layer with positions and a bias; "
                    "expected at least one, of which the map is made; try include_input=True of "
                    "'full_jacobian_map'."
                )
        if self.blocks:
            for term in probe.intercepts:
                if term.kind == "batch_norm" and term.source is not None:
                    before = probe.intercepts[term.source]
                    if before.kind == "affine" and {before.name, term.name} <= terms.keys():
                        terms[term.name] += terms.pop(before.name)
        return terms

    def assemble(self, terms: dict[str, tf.Tensor], x: Any) -> Any:
        """The sum of all terms: channels summed, then absolute values, then laid on the image."""
        of_main, of_others = self.of_main(terms)
        maps = {
            name: tf.reduce_sum(tf.abs(t), -1) if name == INPUT else tf.abs(tf.reduce_sum(t, -1))
            for name, t in of_main.items()
        }
        others = [tf.reduce_sum(tf.abs(t), -1) for t in of_others]
        return self.every_map(maps, others if self.include_input else None, x, self.resize)

    def options(self) -> dict[str, Any]:
        """`blocks`, `include_input`, `resize`, `placement`."""
        return {
            "blocks": self.blocks,
            "include_input": self.include_input,
            "resize": self.resize,
            "placement": self.placement,
        }


class BiasMap(FullJacobianMap):
    """The bias-gradients only: s = Σ_l resize(abs(Σ_c f^b_l,c)).

    Networks without biases (those of batch normalisation included) have no such map. Arguments:
    see `FullJacobianMap`.

    Source: Srinivas and Fleuret, "Full-Jacobian Representation of Neural Networks", §6.
    """

    name = "bias_map"
    zero_map = zero_maps.NO_BIASES

    def __init__(
        self,
        model: Any,
        blocks: bool = False,
        resize: str = "bilinear",
        *,
        placement: str = CELLS,
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, blocks, False, resize, placement=placement, **options)

    def options(self) -> dict[str, Any]:
        """`blocks`, `resize`, `placement`."""
        return {"blocks": self.blocks, "resize": self.resize, "placement": self.placement}
