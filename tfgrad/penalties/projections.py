"""Random projections of the logits: estimates of sums over all classes at the cost of one."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from tfgrad.gradients import targets
from tfgrad.gradients.probe import Probe

PROJECTED = "projected"
# Its draws are independent of those of noise on the inputs, which have the first streams.
_STREAM = 2**20


def validated(target: Any) -> Any:
    """A target as `tfgrad.targets` has them, or `"projected"`."""
    if isinstance(target, str) and target == PROJECTED:
        return target
    return targets.validated(target)


def is_projected(target: Any) -> bool:
    """Whether a target is `"projected"`."""
    return isinstance(target, str) and target == PROJECTED


def signs(probe: Probe, projections: int, seed: int) -> list[tf.Tensor]:
    """Vectors v of independent signs for every example, E[v vᵀ] = 1.

    They have the smallest variance of all v with that mean. The numbers are a function of the seed,
    the step and the place of the example in the global batch.

    Args:
        probe: Probe of the batch.
        projections: Number of vectors.
        seed: Seed of the draws.

    Returns:
        `projections` tensors like the logits, [batch, K], of −1 and 1.
    """
    normal = probe.draws.normal(probe.logits, projections, seed, _STREAM)
    return [tf.where(v < 0, -tf.ones_like(v), tf.ones_like(v)) for v in normal]


def gradients(probe: Probe, vectors: list[tf.Tensor], key: str) -> list[Any]:
    """∇x Σ_k v_k f_k for each vector, in x's structure.

    Args:
        probe: Probe of the batch, of a network with as many logits.
        vectors: Tensors [batch, K].
        key: Their name; the gradients are computed once per name.
    """

    def projected(p: Probe, v: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(p.logits * tf.cast(v, p.logits.dtype), -1)

    scalars = [functools.partial(projected, v=v) for v in vectors]
    return [probe.slope(f"{key}/{n}", scalar) for n, scalar in enumerate(scalars)]


def key_of(projections: int, seed: int) -> str:
    """The name of the vectors that `signs` draws."""
    return f"{PROJECTED}/{projections}/{seed}"
