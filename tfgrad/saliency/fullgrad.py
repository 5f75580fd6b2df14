"""FullGrad: the input-gradient and the bias-gradients of every layer in one map."""

from __future__ import annotations

from typing import Any, Unpack

import tensorflow as tf

from tfgrad import decomposition
from tfgrad.errors import ArgumentError
from tfgrad.gradients.intercepts import Intercept
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import one_of
from tfgrad.internal.precision import at_least_float32
from tfgrad.saliency import term_layout
from tfgrad.saliency.full_gradient_method import Decomposed
from tfgrad.saliency.options import MethodOptions
from tfgrad.saliency.placed_method import CELLS
from tfgrad.saliency.smoothing import Smooth

_RESCALE = ("layer", "channel")


class FullGrad(Decomposed):
    """s = ψ(∇x f ⊙ x) + Σ_l Σ_c ψ(f^b_l)_c (thesis Eq. 3.2).

    ψ takes a part of every entry, rescales it, and lays it on the image, between the middles of
    what the cells of its layer depend on. `placement="stretch"` resizes it to the image instead:
    bilinear(rescale(abs(·))), as in the authors' code. Every layer call with positions contributes
    a term, including the intercepts of activations. Dense layers, gates and attention scores have
    no positions and are part of the decomposition only, whose error `explain` returns. For inputs
    that are not images use `tfgrad.full_gradients`; where the layers' relative sizes count, use
    `rescale=None`.

    Args:
        model: See `Method`; takes images, series or volumes.
        part: Part of every entry: `"abs"`; `"positive"` or `"negative"`, max(±·, 0); or
            `"signed"`, which requires `rescale=None`.
        rescale: Rescaling to [0, 1] by minimum and maximum over an example's layer (`"layer"`, the
            authors' code) or over each of its channels (`"channel"`, exactly Eq. 3.2); None keeps
            the layers' relative sizes.
        resize: Interpolation: `"bilinear"` or `"bicubic"` with aligned corners, or either with the
            suffix `_half_pixel`. Corners and half pixels make a difference to `"stretch"` only.
        times_input: Whether the input-gradient is multiplied by the pixels (⊙ x). Without it,
            images need not be scaled so that 0 is meaningful.
        placement: `"cells"` or `"stretch"`, see `Placed`.
        **options: See `MethodOptions`.

    `explain` also returns `completeness_error` [B] float32, that of the decomposition.

    Source: Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization"
    (2019); thesis §3.4.2, and §3.6 on the choice of ψ.
    """

    name = "fullgrad"

    def __init__(
        self,
        model: Any,
        part: str = "abs",
        rescale: str | None = "layer",
        resize: str = "bilinear",
        times_input: bool = True,
        *,
        placement: str = CELLS,
        **options: Unpack[MethodOptions],
    ) -> None:
        self.part = one_of("part", part, term_layout.PARTS)
        self.rescale = None if rescale is None else one_of("rescale", rescale, _RESCALE)
        self.resize = one_of("resize", resize, term_layout.RESIZE)
        self.times_input = bool(times_input)
        if self.part == "signed" and self.rescale is not None:
            raise ArgumentError(
                f"rescale: got {rescale!r} with part='signed', whose sign is lost by rescaling; "
                "expected None."
            )
        super().__init__(model, placement, **options)

    def input_terms(self, probe: Probe, target: Any) -> Any:
        """∇x f ⊙ x, or ∇x f alone."""
        if self.times_input:
            return super().input_terms(probe, target)
        return tf.nest.map_structure(at_least_float32, self.input_gradient(probe, target))

    def assemble(self, terms: dict[str, tf.Tensor], x: Any) -> Any:
        """The sum of all terms, each rescaled, summed over channels and laid on the image."""

        return self._assembled(terms, x)

    def drawn(self, probe: Probe, target: Any, terms: dict[str, tf.Tensor], x: Any) -> Any:
        """`assemble`, with the absolute values that the check of the decomposition took."""
        known = decomposition.sums_of_probe(probe, target).absolute()
        return self._assembled(terms, x, known)

    def _assembled(
        self, terms: dict[str, tf.Tensor], x: Any, known: term_layout.Absolute | None = None
    ) -> Any:
        summed = term_layout.rescaled_sums(terms, self.part, self.rescale, known)
        maps, others = self.of_main(summed)
        return self.every_map(maps, others, x, self.resize)

    def extras(self, probe: Probe, target: Any, terms: Any) -> dict[str, tf.Tensor]:
        """`completeness_error` of the decomposition, dense layers included."""
        error = decomposition.sums_of_probe(probe, target).error()
        return {"completeness_error": tf.cast(error, tf.float32)}

    def options(self) -> dict[str, Any]:
        """`part`, `rescale`, `resize`, `times_input`, `placement`."""
        return {
            "part": self.part,
            "rescale": self.rescale,
            "resize": self.resize,
            "times_input": self.times_input,
            "placement": self.placement,
        }


class SimpleFullGrad(FullGrad):
    """`FullGrad` of gradients only: ∇_{z_l} f instead of ∇_{z_l} f ⊙ b_l (authors' code).

    z_l is the pre-activation of a layer with a bias, its own or that of batch normalisation, also
    where an activation is fused into the layer. The terms do not add up to the score; use
    `FullGrad` where that matters. Arguments: see `FullGrad`.
    """

    name = "simple_fullgrad"

    def layer_term(self, term: Intercept, value: tf.Tensor, gradient: Any) -> tf.Tensor | None:
        """∇_z f; None for activations and arithmetic, which have no bias."""
        if term.kind in ("activation", "arithmetic"):
            return None
        return tf.zeros_like(value) if gradient is None else at_least_float32(gradient)

    def extras(self, probe: Probe, target: Any, terms: Any) -> dict[str, tf.Tensor]:
        """No additional output: gradients without biases have no completeness error."""
        return {}


class SmoothFullGrad(Smooth):
    """`Smooth` of `FullGrad`: terms averaged over noisy copies, then ψ (authors' code).

    The class is fixed on the clean image and the noise is scaled to the range of each image; the
    authors' code selects the class again for every copy. Costs `samples` decompositions.

    Args:
        model, chunk_size: See `Method`.
        samples, noise, seed: See `Smooth`.
        **options: Further arguments of `FullGrad`.
    """

    name = "smooth_fullgrad"
    asks_gradients_alone = True

    def __init__(
        self,
        model: Any,
        samples: int = 25,
        noise: float = 0.15,
        seed: int = 0,
        *,
        chunk_size: int | None = None,
        **options: Any,
    ) -> None:
        method = FullGrad(model, chunk_size=chunk_size, **options)
        super().__init__(method, samples, noise, seed=seed)

    def options(self) -> dict[str, Any]:
        """`samples`, `noise`, `seed` and those of `FullGrad`."""
        return self._own_options() | self.method.options()
