"""Grad-CAM: the feature maps of one layer, weighted by the class's mean gradient."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal import call_hooks
from tfgrad.internal.precision import at_least_float32
from tfgrad.saliency import term_layout
from tfgrad.saliency.base import Method
from tfgrad.saliency.tracing import traced


class GradCAM(Method):
    """s = resize(relu(Σ_c α_c A_c)), with α_c = 1/(hw) Σ_{i,j} ∂f_y/∂A[i, j, c].

    A [B, h, w, C] is the output of one layer; the map is non-negative and is resized bilinearly
    (half-pixel centres) to the image. It is no finer than the layer: use `InputGradient` or
    `FullGrad` where pixels count, or for a network without feature maps.

    Args:
        model: See `Method`; takes images [B, H, W, C].
        layer: Name of the layer; None takes the last call whose output is [B, h, w, C] with more
            than one position, which excludes [B, 1, 1, C] gates and layers inside attention. Of a
            layer that is called more than once, the last call is taken.
        chunk_size: See `Method`.

    Raises:
        ArgumentError: The model has no such layer, or the layer's output is not a feature map.

    Source: Selvaraju et al., "Grad-CAM" (2017), Eq. 1 and 2.
    """

    name = "gradcam"

    def __init__(
        self, model: Any, layer: str | None = None, *, chunk_size: int | None = None
    ) -> None:
        self.layer = layer
        self._chosen: str | None = layer
        super().__init__(model, chunk_size=chunk_size)
        if layer is not None:
            call_hooks.check_names(self.network, [layer])

    def needs(self) -> Needs:
        """The outputs of the layer's calls."""
        return Needs(layers=(self._chosen,) if self._chosen else ())

    def probe(self, x: tf.Tensor) -> Probe:
        """A probe of the network at x; the first one chooses the layer, if none was named."""
        if x.shape.rank != 4:
            raise ArgumentError(
                f"x: got shape {x.shape}; expected images [batch, height, width, channels] for "
                "Grad-CAM."
            )
        if self._chosen is None:
            self._chosen = _last(self.network, tf.TensorSpec([None, *x.shape[1:]], self.dtype))
        return super().probe(x)

    def attribute(self, probe: Probe, classes: tf.Tensor) -> tf.Tensor:
        """Σ_c α_c A_c [B, h, w], signed."""
        call = list(probe.layer_outputs)[-1]
        features = probe.layer_outputs[call]
        if not tf.is_tensor(features) or features.shape.rank != 4:
            got = getattr(features, "shape", f"a {type(features).__name__}")
            raise ArgumentError(
                f"layer: got {call!r}, whose output is {got}; expected feature maps [batch, "
                "height, width, channels]; try a convolution, or the activation after it."
            )
        gradient = probe.layer_gradients(classes)[call]
        if gradient is None:
            raise ModelError(
                f"model {self.network.name!r}: got layer {call!r}, on which its logits do not "
                "depend; expected a layer whose gradient weights its maps; try another layer=."
            )
        # Gradients in half precision may be too small for their mean to be representable.
        weights = tf.reduce_mean(at_least_float32(gradient), [1, 2], keepdims=True)
        return tf.reduce_sum(weights * at_least_float32(features), -1)

    def assemble(self, terms: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """The positive part, at the size of the image."""
        return term_layout.at_size(tf.nn.relu(terms), x, "bilinear_half_pixel")

    def options(self) -> dict[str, Any]:
        """`layer`, as it was given."""
        return {"layer": self.layer}


class _FeatureMaps(call_hooks.Handler):
    """Records the name of the last layer whose output is a feature map."""

    def __init__(self) -> None:
        self.last: str | None = None
        self._inside = 0

    def layer(self, layer: Any, proceed: Any, args: Any, kwargs: Any) -> Any:
        # Layers inside attention return [B, heads, T, T], which is no feature map.
        attention = isinstance(
            layer, keras.layers.MultiHeadAttention | keras.layers.GroupQueryAttention
        )
        self._inside += attention
        output = proceed(*args, **kwargs)
        self._inside -= attention
        if not self._inside and tf.is_tensor(output) and output.shape.rank == 4:
            height, width = output.shape[1:3]
            if (height, width) != (1, 1):
                self.last = layer.name
        return output


def _last(network: keras.Model, spec: tf.TensorSpec) -> str:
    """The name of the last layer whose output is a feature map.

    Raises:
        ModelError: There is no such layer.
    """
    maps = _FeatureMaps()
    traced(network, spec, maps)
    if maps.last is None or maps.last == network.name:
        raise ModelError(
            f"model {network.name!r}: no layer puts out feature maps [batch, height, width, "
            "channels]; Grad-CAM needs them; try a method of the input, such as "
            "'input_gradient'."
        )
    return maps.last
