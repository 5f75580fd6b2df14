"""Gradients integrated along the straight path from a baseline image."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer
from tfgrad.saliency.base import Method, over_channels
from tfgrad.saliency.input_gradient import single


class IntegratedGradients(Method):
    """How much each pixel adds to the score on the way from a baseline image x′.

    IG = (x − x′) ⊙ ∫₀¹ ∇x f_y(x′ + α (x − x′)) dα, summed over channels, signed. The integral is
    the midpoint rule over `steps` points. Complete: Σ IG = f_y(x) − f_y(x′), up to that rule's
    error, which `explain` returns as `convergence_gap` [B] = abs(Σ IG − (f_y(x) − f_y(x′))).

    Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017), Eq. 1 and 3.
    Costs `steps` gradients, in the memory of one.

    Args:
        model: see `Method`.
        baseline: x′, a finite number or an array that broadcasts to one image [H, W, C].
        steps: points on the path.
        chunk_size: see `Method`.
    """

    name = "integrated_gradients"

    def __init__(
        self, model: Any, baseline: Any = 0.0, steps: int = 50, *, chunk_size: int | None = None
    ) -> None:
        self.baseline = _baseline(baseline)
        self.steps = integer("steps", steps)
        super().__init__(model, chunk_size=chunk_size)

    def attribute(self, probe: Probe, classes: tf.Tensor) -> tf.Tensor:
        """(x − x′) ⊙ the mean gradient, shaped like x."""
        x = self.image(probe)
        way = x - self._start(x)

        def step(k: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            alpha = (tf.cast(k, x.dtype) + 0.5) / self.steps
            there = self.probe(self._start(x) + alpha * way)
            return k + 1, total + single(there.input_gradient(classes))

        _, total = tf.while_loop(
            lambda k, _: k < self.steps,
            step,
            (tf.constant(0), tf.zeros_like(x)),
            parallel_iterations=1,
        )
        return way * total / self.steps

    def assemble(self, terms: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """The channels' sum."""
        return over_channels(terms, tf.reduce_sum)

    def extras(self, probe: Probe, classes: tf.Tensor, terms: tf.Tensor) -> dict[str, tf.Tensor]:
        """`convergence_gap` [B] float32."""
        x = self.image(probe)
        start = self.probe(tf.broadcast_to(self._start(x), tf.shape(x)))
        rise = probe.score(classes) - start.score(classes)
        total = tf.reduce_sum(tf.reshape(terms, [tf.shape(terms)[0], -1]), -1)
        gap = tf.abs(tf.cast(total, rise.dtype) - rise)
        return {"convergence_gap": tf.cast(gap, tf.float32)}

    def options(self) -> dict[str, Any]:
        """`baseline`, `steps`."""
        return {"baseline": self.baseline.tolist(), "steps": self.steps}

    def _start(self, x: tf.Tensor) -> tf.Tensor:
        """x′ in the dtype of x, broadcastable to it."""
        return tf.constant(_fitting(self.baseline, x.shape[1:]), x.dtype)[tf.newaxis]


def _baseline(value: Any) -> np.ndarray:
    try:
        array = np.asarray(value, "float64")
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"baseline: got {value!r}; expected a number or an array shaped like one image."
        ) from error
    if not np.isfinite(array).all():
        raise ArgumentError("baseline: got NaN or infinite values; expected finite ones.")
    return array


def _fitting(baseline: np.ndarray, image: tf.TensorShape) -> np.ndarray:
    """The baseline, if it broadcasts to an image and no further."""
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
