"""Weight gradients of input-gradients as differences of outputs, without double backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfgrad import losses
from tfgrad.gradients.probe import Probe
from tfgrad.internal.precision import total

# Largest shift of an example, in units of the root mean square of the inputs: rounding of the
# outputs and curvature then disturb the weight gradient about equally.
STEPS = {tf.float32: 1e-2, tf.float64: 1e-6}

Later = Callable[[Callable[[tf.Tensor], tf.Tensor]], tf.Tensor]


def squared_norm(
    probe: Probe,
    gradient: Any,
    score: Callable[[tf.Tensor | None], tf.Tensor],
    step: float | None,
) -> tuple[tf.Tensor, Later]:
    """‖g‖² of each example, whose weight gradient is a difference of scores along g = ∇x f.

    With v = 2g as a constant, ∂θ ‖∇x f‖² = v·∂θ∇x f = ∂θ [f(x + t v) − f(x)] / t + O(t). The one t
    of a batch makes the longest shift t ‖v‖ equal to `step` × the root mean square of x; one and
    the same t keeps the sum over the batch right where batch norm couples its examples, too.

    Args:
        probe: Probe of the batch, in float32 or wider.
        gradient: g, in the structure that `input_gradient` returns.
        score: The scalar f [batch] at the probe's own point (None) or at another x.
        step: The longest shift; None for that of the dtype in `STEPS`.

    Returns:
        (values, later): values [batch] are ‖g‖² and contain the weight gradient of −f(x)/t;
        `later(wait)` is 0, [batch], and contains that of f(x + t v)/t. It makes the additional
        forward pass, from what `wait(t)` returns.
    """
    flat = [tf.stop_gradient(g) for g in tf.nest.flatten(gradient)]
    squares = losses.squared_norm(flat)
    # A network without gradient is not shifted.
    longest = _step(probe, step) * _root_mean_square(probe)
    t = tf.math.divide_no_nan(
        tf.cast(longest, squares.dtype), 2.0 * tf.sqrt(tf.reduce_max(squares))
    )

    def part(value: tf.Tensor) -> tf.Tensor:
        constant = tf.stop_gradient(value)
        return tf.math.divide_no_nan(tf.cast(value - constant, t.dtype), t)

    def later(wait: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        waited = wait(t)
        moves = [2.0 * tf.cast(waited, g.dtype) * g for g in flat]
        return part(score(probe.shifted(tf.nest.pack_sequence_as(gradient, moves))))

    return squares - part(score(None)), later


def _step(probe: Probe, step: float | None) -> float:
    if step is not None:
        return step
    tensors = [*probe.differentiated, *tf.nest.flatten(probe.outputs)]
    narrowest = min((t.dtype for t in tensors if t.dtype.is_floating), key=lambda d: d.size)
    return STEPS.get(narrowest, STEPS[tf.float32])


def _root_mean_square(probe: Probe) -> tf.Tensor:
    """Of all entries that are differentiated; 1 where these are all 0."""
    inputs = probe.differentiated
    squares = total([tf.reduce_sum(tf.square(t)) for t in inputs])
    count = tf.add_n([tf.size(t) for t in inputs])
    mean = tf.sqrt(squares / tf.cast(count, squares.dtype))
    return tf.stop_gradient(tf.where(mean > 0, mean, tf.ones_like(mean)))
