"""Matching a teacher's attention maps and their input-gradients (thesis §2.5.2)."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any

import keras
import tensorflow as tf

from tfgrad import losses
from tfgrad.errors import ArgumentError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import number
from tfgrad.penalties import feature_maps
from tfgrad.penalties.base import PACKAGE, Penalty
from tfgrad.penalties.layer_pairs import checked_pairs, config_of, names_of


class _AttentionPenalty(Penalty):
    """Layer pairs and the power of the map, for the two penalties on attention maps."""

    def __init__(
        self, weight: Any, layers: Any, power: float, name: str | None, every: int
    ) -> None:
        super().__init__(weight, name, every=every)
        self.layers = checked_pairs(layers)
        self.power = number("power", power)

    def needs(self) -> Needs:
        """The outputs of the student's layers."""
        return Needs(names_of(self.layers, 0), logits=False)

    def teacher_needs(self) -> Needs:
        """The outputs of the teacher's layers."""
        return Needs(names_of(self.layers, 1), logits=False)

    @property
    def compares_logits(self) -> bool:
        """False: features are compared, whatever the networks make of them."""
        return False

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "layers": config_of(self.layers),
            "power": self.power,
        }


@keras.saving.register_keras_serializable(PACKAGE)
class AttentionMatching(_AttentionPenalty):
    """Σ over layer pairs of ‖A_t/‖A_t‖ − A_s/‖A_s‖‖₂, A = Σ_c abs(Z_c)^power (Eqs. 2.7, 2.8).

    By hand, one channel, two positions: Z_s = (1, 1), Z_t = (1, 0) give maps (1, 1)/√2 and (1, 0),
    whose distance is √(2 − √2) ≈ 0.765. A map of zeros has no direction and counts as zeros.

    Args:
        weight: λ.
        layers: Names of layers of both networks, or (student, teacher) pairs, whose outputs are
            [batch, height, width, channels], or [batch, time, channels] of series and [batch,
            depth, height, width, channels] of volumes. `conv:1` is the second call of `conv`. If
            the sizes differ, the smaller map is resized.
        power: 2 (Eq. 2.7), or 1 for Chapter 4's sums of absolute values (§4.4.1).
        name: Name of the metric.
        every: k: training computes it at each k-th step alone, with the weight k λ; see `Penalty`.

    Raises:
        ArgumentError: A layer does not exist or has no positions, or two maps do not fit.

    Source: thesis §2.5.2; Zagoruyko and Komodakis 2017.
    """

    def __init__(
        self,
        weight: Any = 1.0,
        layers: Any = (),
        power: float = 2.0,
        name: str | None = "attention_matching",
        *,
        every: int = 1,
    ) -> None:
        super().__init__(weight, layers, power, name, every)

    @property
    def differentiates_twice(self) -> bool:
        """False: it contains no gradient."""
        return False

    def compute(self, probe: Probe) -> tf.Tensor:
        """The distance of the maps of each example, summed over pairs, [batch]."""
        total = 0.0
        for student, teacher in self.layers:
            taught = probe.teacher.recall(
                f"attention/{teacher}/{self.power}",
                lambda t, teacher=teacher: feature_maps.attention(t, teacher, self.power),
            )
            own, taught = feature_maps.of_one_size(
                feature_maps.attention(probe, student, self.power), taught, (student, teacher)
            )
            total += losses.root(losses.distance_of_directions(own, tf.cast(taught, own.dtype)))
        return total


@keras.saving.register_keras_serializable(PACKAGE)
class AttentionJacobianMatching(_AttentionPenalty):
    """Σ over layer pairs of ‖g_t/‖g_t‖ − g_s/‖g_s‖‖², g = ∇x of one pixel of the map (Eq. 2.9).

    The map is average-pooled (stride 1, no padding); the pixel (a step of a series, or a voxel of a
    volume) is the *teacher's* maximum, the first one if there are several, and is used for both
    networks. Maps of early layers are easier to match (Table 2.4).

    By hand, A_s = x₁² at the only position, A_t = (x₁ + x₂)², at x = (1, 1): g_s = (2, 0),
    g_t = (4, 4), directions (1, 0) and (1, 1)/√2, so 2 − √2 ≈ 0.586.

    Args:
        weight: λ; 10 in Table 2.3.
        layers: Names of layers of both networks, or (student, teacher) pairs, whose maps have equal
            sizes.
        window: Side of the pooling window as a fraction of the map's, in (0, 1]: per axis
            max(1, round(window · side)). 1.0 pools the whole map, None does not pool. Table 2.5
            compares 1, 1/3, 1/5, 1/7, None; on maps of fewer than 14 pixels per side the small
            ones coincide.
        power: Power of the attention map; 2 in Eq. 2.7.
        name: Name of the metric.
        every: k: training computes it at each k-th step alone, with the weight k λ; see `Penalty`.

    Raises:
        ArgumentError: A layer does not exist or has no positions, or two maps differ in size.

    Source: thesis §2.5.2.
    """

    def __init__(
        self,
        weight: Any = 1.0,
        layers: Any = (),
        window: float | None = 0.2,
        power: float = 2.0,
        name: str | None = "attention_jacobian_matching",
        *,
        every: int = 1,
    ) -> None:
        super().__init__(weight, layers, power, name, every)
        self.window = _checked_window(window)

    def needs(self) -> Needs:
        """The outputs of the student's layers, and input-gradients."""
        return dataclasses.replace(super().needs(), at=False)

    def teacher_needs(self) -> Needs:
        """The same of the teacher."""
        return dataclasses.replace(super().teacher_needs(), at=False)

    def compute(self, probe: Probe) -> tf.Tensor:
        """The distance of the gradients' directions of each example, summed over pairs, [batch]."""
        total = 0.0
        for student, teacher in self.layers:
            key = f"{teacher}/{self.power}/{self.window}"
            size = probe.teacher.recall(
                f"attention size/{key}",
                lambda t, teacher=teacher: feature_maps.size_carrier(t, teacher),
            )
            peak = probe.teacher.recall(
                f"attention peak/{key}", lambda t, teacher=teacher: self._peak(t, teacher)
            )
            taught = probe.teacher.recall(
                f"attention gradient/{key}",
                lambda t, teacher=teacher, peak=peak: self._gradient(t, teacher, peak),
            )
            _check_equal(feature_maps.known_sides(probe, student), size, (student, teacher))
            own = self._gradient(probe, student, peak)
            total += losses.distance_of_directions(own, taught)
        return total

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "window": self.window}

    def _peak(self, probe: Probe, call: str) -> tf.Tensor:
        """Flat index of the largest pixel of each pooled map, [batch]."""
        pooled = self._pooled(probe, call)
        return tf.argmax(feature_maps.flat(pooled), axis=-1, output_type=tf.int32)

    def _gradient(self, probe: Probe, call: str, peak: tf.Tensor) -> Any:
        """∇x of the pixel `peak` of the pooled map."""

        def pixel(probe: Probe) -> tf.Tensor:
            return tf.gather(feature_maps.flat(self._pooled(probe, call)), peak, batch_dims=1)

        return probe.slope((call, self.power, self.window, peak.ref()), pixel)

    def _pooled(self, probe: Probe, call: str) -> tf.Tensor:
        maps = feature_maps.attention(probe, call, self.power)
        return feature_maps.average_pooled(maps, feature_maps.known_sides(probe, call), self.window)


def _checked_window(window: Any) -> float | None:
    real = isinstance(window, numbers.Real) and not isinstance(window, bool)
    if window is not None and not (real and 0 < float(window) <= 1):
        raise ArgumentError(
            f"window: got {window!r}; expected a fraction of the map's side in (0, 1], or None "
            "for no pooling."
        )
    return None if window is None else float(window)


def _check_equal(own: list[int], size: tf.Tensor, pair: tuple[str, str]) -> None:
    """Raise unless both maps have one size, so that one pixel is a pixel of both."""
    if size.shape[1:] != [0, *own]:
        raise ArgumentError(
            f"layers: got {pair}, whose maps have sizes {tuple(own)} and "
            f"{tuple(size.shape[2:])}; expected equal sizes, because the same pixel is taken of "
            "both. tfgrad.penalties.matching_layers(network, teacher) proposes pairs."
        )
