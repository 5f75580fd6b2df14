"""Gradients integrated along the straight path from a baseline image."""

from __future__ import annotations

from typing import Any, Unpack

import tensorflow as tf

from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer
from tfgrad.saliency import baselines
from tfgrad.saliency.base import Method
from tfgrad.saliency.channels import over_channels
from tfgrad.saliency.options import MethodOptions

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
            takes it, [H, W, C]. For token ids an id, such as that of padding or of a mask token, or
            ids [T], which the embedding turns into x′. For several inputs a dict or list of these,
            0 for one that is left out; a single number is taken for all.
        steps: Number of points on the path.
        **options: See `MethodOptions`.

    Source: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017), Eq. 1
    and 3.
    """

    name = "integrated_gradients"
    asks_gradients_alone = True

    def __init__(
        self,
        model: Any,
        baseline: Any = 0.0,
        steps: int = 50,
        **options: Unpack[MethodOptions],
    ) -> None:
        self.baseline = baselines.checked(baseline)
        self.steps = integer("steps", steps)
        super().__init__(model, **options)

    def attribute(self, probe: Probe, target: Any) -> Any:
        """(x − x′) ⊙ the mean gradient, shaped like what is explained."""
        found, tensors = self.explained(probe.x), probe.differentiated
        starts = self._starts(probe, target)
        ways = [x - start for x, start in zip(tensors, starts, strict=True)]

        def step(k: tf.Tensor, totals: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            moved = [
                start + (tf.cast(k, way.dtype) + 0.5) / self.steps * way
                for start, way in zip(starts, ways, strict=True)
            ]
            x, values = found.apart(probe.x, moved)
            there = self.probe(x, target, values)
            slopes = tf.nest.flatten(self.input_gradient(there, target))
            return k + 1, [total + slope for total, slope in zip(totals, slopes, strict=True)]

        _, totals = tf.while_loop(
            lambda k, _: k < self.steps,
            step,
            (tf.constant(0), [tf.zeros_like(x) for x in tensors]),
            parallel_iterations=1,
        )
        return found.packed(
            [way * total / self.steps for way, total in zip(ways, totals, strict=True)]
        )

    def assemble(self, terms: Any, x: Any) -> Any:
        """The sum over channels."""
        return tf.nest.map_structure(lambda t: over_channels(t, "sum"), self.channels_last(terms))

    def extras(self, probe: Probe, target: Any, terms: Any) -> dict[str, Any]:
        """`convergence_gap` [B] float32."""
        rise = self.rise(probe, target)
        sums = [
            tf.reduce_sum(tf.reshape(t, [tf.shape(t)[0], -1]), -1) for t in tf.nest.flatten(terms)
        ]
        gap = tf.abs(sum(tf.cast(total, rise.dtype) for total in sums) - rise)
        return {"convergence_gap": tf.cast(gap, tf.float32)}

    def rise(self, probe: Probe, target: Any) -> tf.Tensor:
        """s(x) − s(x′) of the target's scalar, [B]: what the maps sum to."""
        starts = [
            # At x′ itself, steps equal to the masked value would be masked.
            start if visible is None else start + _NEAR * (x - start)
            for x, start, visible in zip(
                probe.differentiated,
                map(
                    tf.broadcast_to,
                    self._starts(probe, target),
                    map(tf.shape, probe.differentiated),
                ),
                probe.visible(),
                strict=True,
            )
        ]
        x, values = self.explained(probe.x).apart(probe.x, starts)
        return probe.score(target) - self.probe(x, target, values).score(target)

    def options(self) -> dict[str, Any]:
        """`baseline`, `steps`."""
        return {"baseline": baselines.listed(self.baseline), "steps": self.steps}

    def _starts(self, probe: Probe, target: Any) -> list[tf.Tensor]:
        """x′ for each of what is explained, broadcastable to it; x itself at masked steps."""
        found = self.explained(probe.x)
        own = baselines.of_each(self.baseline, found)
        ids = baselines.with_ids(own, found, probe.x)
        embedded: list[Any] = [None] * len(own)
        if ids is not None:
            embedded = self.probe(ids, target).differentiated
        starts = []
        for place, (value, x, visible) in enumerate(
            zip(own, probe.differentiated, probe.visible(), strict=True)
        ):
            if place in found.of_ids:
                start = embedded[place]
            else:
                start = tf.constant(
                    baselines.fitting(value, x.shape[1:], found.keys[place]), x.dtype
                )[tf.newaxis]
            starts.append(start if visible is None else tf.where(visible, start, x))
        return starts
