"""The control of comparisons: a map that does not depend on the model."""

from __future__ import annotations

from typing import Any, Unpack

import tensorflow as tf

from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer
from tfgrad.saliency.base import Method
from tfgrad.saliency.options import MethodOptions

# SplitMix64 (Steele, Lea and Flood, 2014): the increment and the two multipliers of its finaliser.
_INCREMENT = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


class Random(Method):
    """Uniform noise in [0, 1), the random baseline of comparisons; it explains nothing.

    The map is a function of (seed, the image's pixels) in exact integer arithmetic, so an image
    has the same map alone and in any batch, in any process and on any device.

    Args:
        model: See `Method`; only its score and class are used.
        seed: Integer ≥ 0.
        **options: See `MethodOptions`.

    Source: thesis §3.5.
    """

    name = "random"

    def __init__(
        self,
        model: Any,
        seed: int = 0,
        **options: Unpack[MethodOptions],
    ) -> None:
        self.seed = integer("seed", seed, lowest=0)
        super().__init__(model, **options)

    def attribute(self, probe: Probe, target: Any) -> Any:
        """The noise, one number for each position."""
        given = self.explained(probe.x).packed(probe.differentiated)
        return tf.nest.map_structure(self._noise, self.channels_last(given))

    def _noise(self, x: tf.Tensor) -> tf.Tensor:
        keys = _fold(tf.reshape(x, [tf.shape(x)[0], -1]), self.seed)
        shape = tf.shape(x)[:-1]
        positions = tf.range(tf.reduce_prod(shape[1:]), dtype=tf.int64)
        words = _mixed(keys[:, tf.newaxis] + _counted(positions))
        # A float32 represents 24 bits exactly.
        noise = tf.cast(tf.bitwise.right_shift(words, _word(40)), tf.float32) * 2.0**-24
        return tf.ensure_shape(tf.reshape(noise, shape), x.shape[:-1])

    def assemble(self, terms: Any, x: Any) -> Any:
        """The noise, unchanged."""
        return terms

    def options(self) -> dict[str, Any]:
        """`seed`."""
        return {"seed": self.seed}


def _fold(pixels: tf.Tensor, seed: int) -> tf.Tensor:
    """One word for each image, [B, D] → [B]; integer sums do not depend on their order."""
    # Adding 0 gives −0 and 0, which are equal, the same bits.
    bits = tf.bitcast(tf.cast(pixels, tf.float32) + 0.0, tf.uint32)
    positions = tf.range(tf.shape(pixels)[1], dtype=tf.int64)
    words = _mixed(tf.cast(bits, tf.uint64) ^ _mixed(_counted(positions)))
    return _mixed(tf.reduce_sum(words, axis=-1) + _mixed(_word(seed % 2**64)))


def _mixed(words: tf.Tensor) -> tf.Tensor:
    """SplitMix64's finaliser: every bit of the result depends on every bit of the word."""
    for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, 1), strict=True):
        words = (words ^ tf.bitwise.right_shift(words, _word(shift))) * _word(multiplier)
    return words


def _counted(positions: tf.Tensor) -> tf.Tensor:
    """The states of SplitMix64 at these positions of its sequence."""
    return (tf.cast(positions, tf.uint64) + _word(1)) * _word(_INCREMENT)


def _word(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)
