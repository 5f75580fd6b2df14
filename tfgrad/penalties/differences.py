"""Weight gradients of input-gradients as differences of outputs, without double backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfgrad import losses
from tfgrad.gradients.probe import Probe
from tfgrad.internal.precision import in_widest_dtype

# Largest shift of an example, in units of the root mean square of the inputs: rounding of the
# outputs and curvature then disturb the weight gradient about equally.
STEPS = {tf.float32: 1e-2, tf.float64: 1e-6}
# The same of each entry, for differences between both sides of x.
CENTRAL_STEPS = {tf.float32: 1e-2, tf.float64: 1e-4}

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


def directions(probe: Probe, samples: int, seed: int, step: float | None) -> list[Any]:
    """Shifts ±σ of every entry of x, for `along`; E[δ δᵀ] = σ², σ of each example.

    Args:
        probe: Probe of the batch, in float32 or wider.
        samples: Number of shifts per example.
        seed: Seed of the draws.
        step: σ in units of the root mean square of the example; None for that of the dtype.

    Returns:
        `samples` shifts, in the structure that `input_gradient` returns.
    """
    sigma = _step(probe, step, CENTRAL_STEPS) * _root_mean_square(probe, of_batch=False)

    def shift(normal: tf.Tensor) -> tf.Tensor:
        return tf.sign(normal) * _beside(tf.cast(sigma, normal.dtype), normal)

    return [tf.nest.map_structure(shift, normal) for normal in probe.noise(samples, seed)]


def along(probe: Probe, shift: Any, outputs: Callable[[Any], tf.Tensor]) -> tf.Tensor:
    """[f(x + δ) − f(x − δ)] / 2σ = δ·∇x f/σ + O(σ²), like the outputs.

    Args:
        probe: Probe of the batch.
        shift: δ, of which σ is the largest entry of each example.
        outputs: f as a function of x.
    """
    flat = zip(tf.nest.flatten(shift), probe.differentiated, strict=True)
    moves = [tf.cast(d, t.dtype) for d, t in flat]
    sizes = [tf.reduce_max(tf.abs(d), tf.range(1, tf.rank(d))) for d in moves]
    sigma = tf.reduce_max(tf.stack(in_widest_dtype(*sizes)), 0)
    plus, minus = (
        outputs(probe.shifted(tf.nest.pack_sequence_as(shift, [sign * d for d in moves])))
        for sign in (1, -1)
    )
    return tf.math.divide_no_nan(plus - minus, 2 * _beside(tf.cast(sigma, plus.dtype), plus))


def _step(probe: Probe, step: float | None, steps: Mapping[tf.DType, float] = STEPS) -> float:
    if step is not None:
        return step
    tensors = [*probe.differentiated, *tf.nest.flatten(probe.outputs)]
    narrowest = min((t.dtype for t in tensors if t.dtype.is_floating), key=lambda d: d.size)
    return steps.get(narrowest, steps[tf.float32])


def _root_mean_square(probe: Probe, of_batch: bool = True) -> tf.Tensor:
    """Of all entries that are differentiated, or of each example's; 1 where these are all 0."""
    inputs = probe.differentiated
    squares = losses.squared_norm(inputs)
    count = tf.cast(tf.add_n([tf.reduce_prod(tf.shape(t)[1:]) for t in inputs]), squares.dtype)
    mean = tf.sqrt((tf.reduce_mean(squares) if of_batch else squares) / count)
    return tf.stop_gradient(tf.where(mean > 0, mean, tf.ones_like(mean)))


def _beside(tensor: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """[batch] with axes of length 1 up to the rank of another tensor."""
    return tf.reshape(tensor, tf.concat([tf.shape(tensor), tf.ones_like(tf.shape(like)[1:])], 0))
