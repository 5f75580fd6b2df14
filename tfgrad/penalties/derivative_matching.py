"""Matching known derivatives of the function that is learned (Sobolev training)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfgrad import losses
from tfgrad.errors import ArgumentError
from tfgrad.gradients import targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.precision import total
from tfgrad.penalties.base import PACKAGE, Penalty, at_config, checked_at, is_of_classes
from tfgrad.penalties.examples import given_for, pairs_of


@keras.saving.register_keras_serializable(PACKAGE)
class DerivativeMatching(Penalty):
    """Σ_i (∂s/∂x_i − d_i)² over the inputs i whose derivative d_i is known (Sobolev training).

    The derivatives come with the batch, as `Examples(x, {"derivatives": d})`: d is like x; of a
    network with several float inputs {key or position among them: array} of some or all of them.
    Where d is NaN the derivative is unknown and adds nothing.

    By hand, s = 3 x_1 − x_2, d = (1, NaN): (3 − 1)² = 4.

    Args:
        weight: λ. Divide by the square of the ratio of typical slopes and values to give slopes
            and values equal weights.
        target: The scalar s, see `tfgrad.targets`; None for the only output, as the network returns
            it. `"all"`: every output k, whose derivatives are d[:, k].
        key: The key of the derivatives in `Examples`.
        name: Name of the metric.
        head: Output of a network with several.
        at: Layers whose outputs are differentiated beside float inputs, see `GradientNorm`; the
            derivatives are then like these outputs, at the places of their integer inputs.
        every: k: training computes it at each k-th step alone, with the weight k λ; see `Penalty`.

    Raises:
        ArgumentError: An argument is none of these; a batch comes without derivatives, or with some
            of another shape.

    Example:

    ```python
    model = tfgrad.PenalizedModel(network, [tfgrad.penalties.DerivativeMatching(1.0)])
    model.compile("adam", "mse")
    model.fit(tfgrad.penalties.Examples(x, {"derivatives": np.cos(x)}), np.sin(x))
    ```

    Source: Czarnecki, Osindero, Jaderberg, Swirszcz and Pascanu, *Sobolev Training for Neural
    Networks*, 2017.
    """

    def __init__(
        self,
        weight: Any = 1.0,
        target: Any = None,
        key: str = "derivatives",
        name: str | None = "derivative_matching",
        head: Any = None,
        *,
        at: Any = None,
        every: int = 1,
    ) -> None:
        super().__init__(weight, name, head, every=every)
        self.target = targets.validated(targets.Output() if target is None else target)
        self.key, self.at = key, checked_at(at)

    def needs(self) -> Needs:
        """The full Jacobian for target `"all"`."""
        return Needs(jacobian=self._all(), logits=is_of_classes(self.target), at=self.at or False)

    def compute(self, probe: Probe) -> tf.Tensor:
        """The squared distance to the known derivatives of each example, [batch]."""
        given = given_for(probe, self.key, self.name)
        if not self._all():
            return self._distance(probe.input_gradient(self.target), given)
        rows = probe.input_jacobian()
        for value in tf.nest.flatten(given):
            if value.shape.rank is not None and value.shape[1:2] != [len(rows)]:
                raise ArgumentError(
                    f"x: got {self.key!r} of shape {tuple(value.shape)}; expected [batch, "
                    f"{len(rows)}, …], the derivatives of each of {len(rows)} outputs."
                )
        parts = [tf.nest.map_structure(lambda t, k=k: t[:, k], given) for k in range(len(rows))]
        return total([self._distance(row, part) for row, part in zip(rows, parts, strict=True)])

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "target": targets.to_config(self.target),
            "key": self.key,
            "at": at_config(self.at),
        }

    def _all(self) -> bool:
        return isinstance(self.target, str) and self.target == "all"

    def _distance(self, gradient: Any, given: Any) -> tf.Tensor:
        """Σ (g − d)² over the known d, [batch]."""
        differences = []
        for place, own, known in pairs_of(gradient, given, self.key):
            if not tf.is_tensor(own) or not own.shape.is_compatible_with(known.shape):
                where = "" if place is None else f" for input {place!r}"
                raise ArgumentError(
                    f"x: got {self.key!r} of shape {tuple(known.shape)}{where}; expected "
                    f"{tuple(getattr(own, 'shape', ()))}, like the input."
                )
            # Where a trace knows no lengths: one value must not be taken for several.
            known = tf.reshape(tf.cast(known, own.dtype), tf.shape(own))
            missing = tf.math.is_nan(known)
            # NaN must not reach the difference, whose gradient it would be.
            known = tf.where(missing, tf.zeros_like(known), known)
            differences.append(tf.where(missing, tf.zeros_like(own), own - known))
        return losses.squared_norm(differences)
