"""Grad-CAM: the feature maps of one layer, weighted by the class's mean gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import tensorflow as tf

from tfgrad.errors import ModelError
from tfgrad.gradients import axes
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal import call_hooks
from tfgrad.internal.precision import at_least_float32
from tfgrad.saliency import cam_layers, zero_maps
from tfgrad.saliency.options import MethodOptions
from tfgrad.saliency.placed_method import CELLS, Placed
from tfgrad.saliency.placement import Laid

_FEATURES = "features"


class GradCAM(Placed):
    """s = place(relu(Σ_c α_c A_c)), with α_c = 1/(hw) Σ_{i,j} ∂f_y/∂A[i, j, c].

    A [B, h, w, C] is the output of one layer; the map is non-negative and is interpolated
    between the middles of what the cells depend on; `placement="stretch"` resizes it bilinearly
    (half-pixel centres) to the image instead. It is no finer than the layer: use `InputGradient` or
    `FullGrad` where pixels count, or for a network without feature maps.

    Args:
        model: See `Method`; takes images, series or volumes.
        layer: Name of the layer, or of one of its calls (`conv:1`); of a layer that is called more
            than once, the last call with positions is taken. None takes the last call that returns
            feature maps, or tokens [B, n, C] that are the positions of feature maps. It excludes
            [B, 1, 1, C] gates, layers inside attention, windows on the batch axis, tokens that are
            no positions (learned ones), and calls on whose positions the logits do not depend.
        placement: `"cells"` or `"stretch"`, see `Placed`.
        **options: See `MethodOptions`.

    Raises:
        ArgumentError: The model has no such layer, or the layer's output is not a feature map with
            one entry for each image.
        ModelError: At the first call, if no layer is named and none returns feature maps.

    Source: Selvaraju et al., "Grad-CAM" (2017), Eq. 1 and 2.
    """

    name = "gradcam"
    zero_map = zero_maps.CUT_OFF

    def __init__(
        self,
        model: Any,
        layer: str | None = None,
        *,
        placement: str = CELLS,
        **options: Unpack[MethodOptions],
    ) -> None:
        self.layer = layer
        self._calls: dict[tuple[int | None, ...], axes.Call] = {}  # by the shape of an image
        super().__init__(model, placement, **options)
        if layer is not None:
            cam_layers.check_name(self.network, layer)

    def needs(self) -> Needs:
        """The outputs of the layer's calls."""
        names = (call_hooks.layer_of(call.name) for call in self._calls.values())
        return Needs(layers=tuple(dict.fromkeys(names)))

    def probe(
        self, x: Any, target: Any = None, values: Mapping[str, tf.Tensor] | None = None
    ) -> Probe:
        """A probe of the network at x; the first one of each size finds the layer's call."""
        found = self.explained(x)
        shape = tuple(found.spec.shape[1:])
        if shape not in self._calls:
            spec = tf.TensorSpec([None, *shape], found.spec.dtype)
            if self.layer is None:
                self._calls[shape] = cam_layers.last(found.network, spec)
            else:
                self._calls[shape] = cam_layers.named(found.network, spec, self.layer)
        return super().probe(x, target, values)

    def attribute(self, probe: Probe, target: Any) -> tf.Tensor:
        """Σ_c α_c A_c [B, *cells], signed."""
        chosen = self._calls[tuple(self.image(probe).shape[1:])]
        self.locate(probe, target)
        call, layout = chosen.name, chosen.features
        assert layout is not None  # the chosen call has positions
        assert chosen.shape is not None  # and its output is one tensor
        features = layout.laid_out(axes.with_shape(probe.layer_outputs[call], chosen.shape))
        gradient = probe.layer_gradients(target)[call]
        if gradient is None:
            raise ModelError(
                f"model {self.network.name!r}: got layer {call!r}, on which its logits do not "
                "depend; expected a layer whose gradient weights its maps; try another layer=."
            )
        gradient = layout.laid_out(axes.with_shape(gradient, chosen.shape))
        # Gradients in half precision may be too small for their mean to be representable.
        cells = list(range(1, gradient.shape.rank - 1))
        weights = tf.reduce_mean(at_least_float32(gradient), cells, keepdims=True)
        return tf.reduce_sum(weights * at_least_float32(features), -1)

    def assemble(self, terms: tf.Tensor, x: Any) -> Any:
        """The positive part, laid on the image."""
        main = tf.nest.flatten(x)[self.main_of(x)]
        laid = self.laid({_FEATURES: tf.nn.relu(terms)}, main, "bilinear_half_pixel")
        return self.map_of_main(x, laid)

    def positioned(self, probe: Probe) -> dict[str, tuple[tf.Tensor, Laid]]:
        """The output of the chosen call."""
        call = self._calls[tuple(self.image(probe).shape[1:])]
        assert call.features is not None  # the chosen call has positions
        return {_FEATURES: (probe.layer_outputs[call.name], call.features.laid_out)}

    def options(self) -> dict[str, Any]:
        """`layer`, as it was given, and `placement`."""
        return {"layer": self.layer, "placement": self.placement}
