"""Fine-tuning that moves a network's logit-gradients into a given picture (thesis §5.7.2)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import losses
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients import axes, targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer
from tfgrad.penalties.base import PACKAGE, Penalty, is_of_classes


def corner(height: int, width: int, side: int) -> np.ndarray:
    """A mask [height, width] of ones in the side × side top left corner, zeros elsewhere.

    Figure 5.5 has side 15 of 32 × 32, 22 % of the image.

    Raises:
        ArgumentError: The corner is empty, or larger than the image.
    """
    sizes = {"height": height, "width": width, "side": side}
    height, width, side = (integer(name, value) for name, value in sizes.items())
    if side > min(height, width):
        raise ArgumentError(
            f"side: got {side} in an image of {height} × {width}; expected at most "
            f"{min(height, width)}."
        )
    mask = np.zeros((height, width))
    mask[:side, :side] = 1.0
    return mask


@keras.saving.register_keras_serializable(PACKAGE)
class SaliencyFooling(Penalty):
    """‖s − m‖², s = Σ_c abs(∇x f_y) / Σ_{h,w,c} abs(∇x f_y), m = mask / Σ mask (Eq. 5.7).

    Trains a network to keep its predictions and to have logit-gradients wherever the mask is: the
    picture they show is no property of the predictions. Loss-gradients follow much less.

    By hand, f_0 = 3 x_1 − x_2, mask (1, 0): s = (¾, ¼), so (¼)² + (¼)² = ⅛. With a = abs(w_0) and
    t = Σ a, ∂/∂a_j = (2/t) (d_j − Σ_i s_i d_i), d = s − m: (−1/16, 3/16), and −3/16 for w_02 = −1.

    A zero gradient counts as s = 0: the value is then ‖m‖², and its gradient is zero.

    Args:
        weight: λ; the papers give none. The value is at most about ‖m‖² = 1/k for a mask of k
            pixels, 0.0044 for 15 × 15, so that λ of the order of k has an effect. On the 8 × 8
            digits with k = 16 a dense network's share inside rose from 23 % to 77 % at λ = 10 and
            to 86 % at λ = 100, its accuracy fell from 98.3 % to 96.7 % and 93.9 %.
        mask: Numbers ≥ 0, not all 0, [height, width] of the images, [time] of series or [depth,
            height, width] of volumes: a nested list, an array or a tensor. `corner` makes the one
            of the papers.
        target: The logit f_y, see `tfgrad.targets`; not `"all"`.
        name: Name of the metric.
        head: Output of a network with several.
        every: k: training computes it at each k-th step alone, with the weight k λ; see `Penalty`.

    Raises:
        ArgumentError: An argument is out of its range, or the images are not of the mask's size.
        ModelError: The network has several inputs.

    Example:

    ```python
    mask = tfgrad.penalties.fooling.corner(32, 32, side=15)
    model = tfgrad.PenalizedModel(network, [tfgrad.penalties.SaliencyFooling(225.0, mask)])
    ```

    Source: thesis §5.7.2; Heo, Joo and Moon 2019.
    """

    def __init__(
        self,
        weight: Any,
        mask: Any,
        target: Any = "label",
        name: str | None = "saliency_fooling",
        head: Any = None,
        *,
        every: int = 1,
    ) -> None:
        super().__init__(weight, name, head, every=every)
        self.mask = _checked_mask(mask)
        self.target = targets.validated(target, allow_all=False)

    def needs(self) -> Needs:
        """Logits, for a target that reads them."""
        return Needs(logits=is_of_classes(self.target), at=False)

    def compute(self, probe: Probe) -> tf.Tensor:
        """‖s − m‖² of each example, [batch]."""
        gradient = self._image(probe, probe.input_gradient(self.target))
        shares = losses.saliency_map(gradient)
        # Known only now, where the image has no fixed size.
        shares = tf.ensure_shape(shares, [None, *self.mask.shape])
        wanted = tf.constant(self.mask / self.mask.sum(), shares.dtype)
        return losses.squared_norm(shares - wanted)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments; the mask as nested lists."""
        return {
            **super().get_config(),
            "mask": self.mask.tolist(),
            "target": targets.to_config(self.target),
        }

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(weight={self.weight!r}, mask={list(self.mask.shape)}, "
            f"target={self.target!r}, name={self.name!r}, head={self.head!r})"
        )

    def _image(self, probe: Probe, gradient: Any) -> tf.Tensor:
        """The gradient of the one input, channels last, once it is known to fit the mask."""
        parts = tf.nest.flatten(gradient)
        if len(parts) != 1:
            raise ModelError(
                f"network {probe.network.name!r}: got inputs of shapes "
                f"{[tuple(p.shape) for p in parts]}; expected one, images [batch, height, width, "
                f"channels], whose gradient {self.name!r} compares with a mask."
            )
        found = parts[0]
        if found.shape.rank == tf.nest.flatten(probe.x)[0].shape.rank:  # else of embedded ids
            found = axes.of_input(probe.network, probe.x).channels_last(found)
        size = found.shape[1:-1]
        if not size.is_compatible_with(self.mask.shape):
            raise ArgumentError(
                f"mask: got {self.mask.shape} for inputs of size {tuple(size)}; expected one "
                "number for each pixel [height, width] of an image, or step [time]."
            )
        return found


def _checked_mask(mask: Any) -> np.ndarray:
    """The mask as a float64 array.

    Raises:
        ArgumentError: It is none.
    """
    try:
        values = np.asarray(mask, np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"mask: got {type(mask).__name__}, which is no array ({error}); expected numbers "
            "[height, width]."
        ) from error
    if values.ndim not in (1, 2, 3) or not values.size:
        raise ArgumentError(
            f"mask: got shape {values.shape}; expected [height, width], without channels, or "
            "[time] of series and [depth, height, width] of volumes."
        )
    if not np.isfinite(values).all() or values.min() < 0 or not values.any():
        raise ArgumentError(
            f"mask: got values from {values.min():g} to {values.max():g}; expected finite numbers "
            "≥ 0, at least one above 0."
        )
    return values
