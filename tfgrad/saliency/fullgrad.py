"""FullGrad: input-gradient and bias-gradients, each layer's as a picture, in one map."""

from __future__ import annotations

from typing import Any, ClassVar

import tensorflow as tf

from tfgrad import decomposition
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.intercepts import Intercept, wide
from tfgrad.probe import Needs, Probe
from tfgrad.saliency import _maps
from tfgrad.saliency._arguments import one_of
from tfgrad.saliency.base import Method
from tfgrad.saliency.smoothing import Smooth

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
        decomposition.check(probe)
        image = self.image(probe)
        if image.shape.rank != 4:
            raise ArgumentError(
                f"x: got shape {image.shape}; {type(self).__name__} needs images [batch, height, "
                "width, channels]."
            )
        gradients = probe.intercept_gradients(classes)
        terms = {INPUT: self.input_term(probe, classes)}
        for term, upper in zip(probe.intercepts, gradients, strict=True):
            value = self.layer_term(term, upper)
            laid_out = None if value is None else _maps.on_grid(term, value, image)
            if laid_out is not None:
                terms[term.name] = laid_out
        return terms

    def input_term(self, probe: Probe, classes: tf.Tensor) -> tf.Tensor:
        """∇x f ⊙ x, like the image."""
        (gradient,) = tf.nest.flatten(probe.input_gradient(classes))
        return wide(gradient) * wide(self.image(probe))

    def layer_term(self, term: Intercept, gradients: list[Any]) -> tf.Tensor | None:
        """A call's bias-gradient f^b, like its output; None leaves the call out."""
        return term.term(gradients)


class FullGrad(Decomposed):
    """s = ψ(∇x f ⊙ x) + Σ_l Σ_c ψ(f^b_l)_c (thesis Eq. 3.2).

    ψ takes a part of every entry, rescales, and resizes to the image: by default
    bilinear(rescale(abs(·))), which is the authors' code. Every layer call with positions enters,
    activations' intercepts included; dense layers, gates and attention scores enter the
    decomposition alone, whose error `explain` reports.

    Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization" (2019);
    thesis §3.4.2, and §3.6 on the choice of ψ.

    Args:
        model: see `Method`; takes images [B, H, W, C].
        part: of every entry: `"abs"`; `"positive"` or `"negative"`, max(±·, 0); or `"signed"`,
            which goes with `rescale=None`.
        rescale: to [0, 1] by minimum and maximum over an example's layer (`"layer"`, the authors'
            code) or over each of its channels (`"channel"`, Eq. 3.2 to the letter), or None, which
            keeps the layers' relative sizes.
        resize: `"bilinear"` or `"bicubic"` with corners aligned, or either with `_half_pixel`.
        times_input: whether the gradient is multiplied by the pixels (⊙ x); without, images need
            not be scaled to a meaningful zero.
        chunk_size: see `Method`.

    `explain` also returns `completeness_error` [B] float32, of the decomposition it is made of.
    """

    name: ClassVar[str] = "fullgrad"

    def __init__(
        self,
        model: Any,
        part: str = "abs",
        rescale: str | None = "layer",
        resize: str = "bilinear",
        times_input: bool = True,
        *,
        chunk_size: int | None = None,
    ) -> None:
        self.part = one_of("part", part, _maps.PARTS)
        self.rescale = None if rescale is None else one_of("rescale", rescale, _RESCALE)
        self.resize = one_of("resize", resize, _maps.RESIZE)
        self.times_input = bool(times_input)
        if self.part == "signed" and self.rescale is not None:
            raise ArgumentError(
                f"rescale: got {rescale!r} with part='signed', whose sign it would not keep; "
                "expected None."
            )
        super().__init__(model, chunk_size=chunk_size)

    def input_term(self, probe: Probe, classes: tf.Tensor) -> tf.Tensor:
        """∇x f ⊙ x, or ∇x f alone."""
        if self.times_input:
            return super().input_term(probe, classes)
        return wide(tf.nest.flatten(probe.input_gradient(classes))[0])

    def assemble(self, terms: dict[str, tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        """Every term rescaled, summed over channels and resized, and their sum."""
        maps = [_maps.over_channels(t, self.part, self.rescale) for t in terms.values()]
        return _maps.resized_sum(maps, x, self.resize)

    def extras(self, probe: Probe, classes: tf.Tensor, terms: Any) -> dict[str, tf.Tensor]:
        """The error of the decomposition, dense layers included."""
        error = decomposition.of_probe(probe, classes).completeness_error()
        return {"completeness_error": tf.cast(error, tf.float32)}

    def options(self) -> dict[str, Any]:
        """`part`, `rescale`, `resize`, `times_input`."""
        return {
            "part": self.part,
            "rescale": self.rescale,
            "resize": self.resize,
            "times_input": self.times_input,
        }


_RESCALE = ("layer", "channel")


class SimpleFullGrad(FullGrad):
    """`FullGrad` of gradients alone: ∇_{z_l} f in place of ∇_{z_l} f ⊙ b_l (authors' code).

    z_l is the pre-activation of a layer with a bias, its own or batch normalisation's, also where
    an activation is fused into the layer. Arguments: see `FullGrad`.
    """

    name = "simple_fullgrad"

    def layer_term(self, term: Intercept, gradients: list[Any]) -> tf.Tensor | None:
        """∇_z f; activations have no bias of their own."""
        if term.kind == "activation":
            return None
        return tf.zeros_like(wide(term.output)) if gradients[0] is None else wide(gradients[0])

    def extras(self, probe: Probe, classes: tf.Tensor, terms: Any) -> dict[str, tf.Tensor]:
        """None: gradients without biases add up to nothing."""
        return {}


class SmoothFullGrad(Smooth):
    """`Smooth` of `FullGrad`: terms averaged over noisy copies, then ψ (authors' code).

    The class is fixed on the clean image and the noise's range taken per image; the authors' code
    picks the class anew for every copy.

    Args:
        model: see `Method`.
        samples: see `Smooth`.
        noise: see `Smooth`.
        seed: see `Smooth`.
        chunk_size: see `Method`.
        **options: see `FullGrad`.
    """

    name = "smooth_fullgrad"

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
        own = {"samples": self.samples, "noise": self.noise, "seed": self.seed}
        return own | self.method.options()


class FullJacobianMap(Decomposed):
    """s = abs(∇x f ⊙ x) + Σ_l resize(abs(Σ_c f^b_l,c)), channels summed before abs.

    Srinivas and Fleuret, "Full-Jacobian Representation of Neural Networks", Eq. 4. In the input's
    term abs comes before the sum over colours.

    Args:
        model: see `Method`; takes images [B, H, W, C].
        blocks: whether a convolution and the batch normalisation after it make one term, as in
            §7.3, rather than two.
        include_input: whether the input's term enters; without, the map is of the biases alone.
        resize: see `FullGrad`.
        chunk_size: see `Method`.
    """

    name = "full_jacobian_map"

    def __init__(
        self,
        model: Any,
        blocks: bool = False,
        include_input: bool = True,
        resize: str = "bilinear",
        *,
        chunk_size: int | None = None,
    ) -> None:
        self.blocks, self.include_input = bool(blocks), bool(include_input)
        self.resize = one_of("resize", resize, _maps.RESIZE)
        super().__init__(model, chunk_size=chunk_size)

    def attribute(self, probe: Probe, classes: tf.Tensor) -> dict[str, tf.Tensor]:
        """The terms; of a block, one."""
        terms = super().attribute(probe, classes)
        if not self.include_input:
            del terms[INPUT]
            if not terms:
                raise ModelError(
                    f"model {self.network.name!r}: no layer with positions has a bias, so there "
                    "is no map of the biases."
                )
        if self.blocks:
            for term in probe.intercepts:
                if term.kind == "batch_norm" and term.source is not None:
                    before = probe.intercepts[term.source]
                    if before.kind == "affine" and {before.name, term.name} <= terms.keys():
                        terms[term.name] += terms.pop(before.name)
        return terms

    def assemble(self, terms: dict[str, tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        """Channels summed, magnitudes taken, resized and added."""
        maps = [
            tf.reduce_sum(tf.abs(t), -1) if name == INPUT else tf.abs(tf.reduce_sum(t, -1))
            for name, t in terms.items()
        ]
        return _maps.resized_sum(maps, x, self.resize)

    def options(self) -> dict[str, Any]:
        """`blocks`, `include_input`, `resize`."""
        return {
            "blocks": self.blocks,
            "include_input": self.include_input,
            "resize": self.resize,
        }


class BiasMap(FullJacobianMap):
    """The biases alone: s = Σ_l resize(abs(Σ_c f^b_l,c)) (full-Jacobian paper, §6).

    Arguments: see `FullJacobianMap`.
    """

    name = "bias_map"

    def __init__(
        self,
        model: Any,
        blocks: bool = False,
        resize: str = "bilinear",
        *,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(model, blocks, False, resize, chunk_size=chunk_size)

    def options(self) -> dict[str, Any]:
        """`blocks`, `resize`."""
        return {"blocks": self.blocks, "resize": self.resize}


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
        self.resize = None if resize is None else one_of("resize", resize, _maps.RESIZE)
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
        return summed if self.resize is None else _maps.at_size(summed, x, self.resize)

    def options(self) -> dict[str, Any]:
        """`call`, `neuron`, `resize`."""
        return {"call": self.call, "neuron": self.neuron, "resize": self.resize}
