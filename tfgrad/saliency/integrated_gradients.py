"""Gradients integrated along the straight path from a baseline image."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import masks
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer
from tfgrad.saliency.base import Method
from tfgrad.saliency.channels import over_channels

# Share of the path from x′ at which a network with masks is evaluated in the place of x′.
_NEAR = 1e-6


class IntegratedGradients(Method):
    """The contribution of each pixel to the change of the score from a baseline image x′.

    IG = (x − x′) ⊙ ∫₀¹ ∇x f_y(x′ + α (x − x′)) dα, summed over channels, signed. The integral is
    approximated by the midpoint rule at `steps` points. Complete: Σ IG = f_y(x) − f_y(x′), up to
    the error of that rule, which `explain` returns as `convergence_gap` [B] = abs(Σ IG − (f_y(x) −
    f_y(x′))). Costs `steps` gradients, in the memory of one.

    The map depends on the baseline, and changes within a region in which the network is linear
    (thesis Example 1); pixels equal to the baseline get 0. Steps that the network masks at x stay
    masked on the whole path and get 0; the others stay visible, also where the baseline has the
    value that is masked.

    Args:
        model: See `Method`.
        baseline: x′, a finite number or an array that broadcasts to one image as the model
            takes it, [H, W, C].
        steps: Number of points on the path.
        chunk_size, outputs, channels: See `Method`.

    Source: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017), Eq. 1
    and 3.
    """

    name = "integrated_gradients"

    def __init__(
        self,
        model: Any,
        baseline: Any = 0.0,
        steps: int = 50,
        *,
        chunk_size: int | None = None,
        outputs: Any = None,
        channels: str | None = None,
    ) -> None:
        self.baseline = _baseline(baseline)
        self.steps = integer("steps", steps)
        super().__init__(model, chunk_size=chunk_size, outputs=outputs, channels=channels)

    def attribute(self, probe: Probe, classes: tf.Tensor) -> tf.Tensor:
        """(x − x′) ⊙ the mean gradient, shaped like x."""
        x = self.image(probe)
        start = self._start(x, masks.visible(self.network, x))
        way = x - start

        def step(k: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            alpha = (tf.cast(k, x.dtype) + 0.5) / self.steps
            there = self.probe(start + alpha * way)
            return k + 1, total + self.input_gradient(there, classes)

        _, total = tf.while_loop(
            lambda k, _: k < self.steps,
            step,
            (tf.constant(0), tf.zeros_like(x)),
            parallel_iterations=1,
        )
        return way * total / self.steps

    def assemble(self, terms: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """The sum over channels."""
        return over_channels(self.channels_last(terms), "sum")

    def extras(self, probe: Probe, classes: tf.Tensor, terms: tf.Tensor) -> dict[str, tf.Tensor]:
        """`convergence_gap` [B] float32."""
        x = self.image(probe)
        visible = masks.visible(self.network, x)
        start = tf.broadcast_to(self._start(x, visible), tf.shape(x))
        if visible is not None:  # at x′ itself, steps equal to the masked value would be masked
            start += _NEAR * (x - start)
        at_start = self.probe(start)
        rise = probe.score(classes) - at_start.score(classes)
        total = tf.reduce_sum(tf.reshape(terms, [tf.shape(terms)[0], -1]), -1)
        gap = tf.abs(tf.cast(total, rise.dtype) - rise)
        return {"convergence_gap": tf.cast(gap, tf.float32)}

    def options(self) -> dict[str, Any]:
        """`baseline`, `steps`."""
        return {"baseline": self.baseline.tolist(), "steps": self.steps}

    def _start(self, x: tf.Tensor, visible: tf.Tensor | None) -> tf.Tensor:
        """x′ in the dtype of x, broadcastable to it; x itself at masked steps."""
        start = tf.constant(_fitting(self.baseline, x.shape[1:]), x.dtype)[tf.newaxis]
        return start if visible is None else tf.where(visible, start, x)


def _baseline(value: Any) -> np.ndarray:
    try:
        array = np.asarray(value, "float64")
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"baseline: got {value!r}; expected a number, or an array that broadcasts to one image."
        ) from error
    if not np.isfinite(array).all():
        raise ArgumentError("baseline: got NaN or infinite values; expected finite numbers.")
    return array


def _fitting(baseline: np.ndarray, image: tf.TensorShape) -> np.ndarray:
    """The baseline with as many axes as an image.

    Raises:
        ArgumentError: It does not broadcast to the image's shape.
    """
    sizes = [None] * (image.rank - baseline.ndim) + list(baseline.shape)
    fits = baseline.ndim <= image.rank and all(
        b in (None, 1) or i in (None, b) for b, i in zip(sizes, image, strict=True)
    )
    if not fits:
        raise ArgumentError(
            f"baseline: got shape {baseline.shape}; expected a number, or an array that broadcasts "
            f"to one image {tuple(image)}."
        )
    return baseline.reshape([1] * (image.rank - baseline.ndim) + list(baseline.shape))
