"""Random noise as a function of (seed, step, example).

A stochastic estimator must give the same values whether a global batch is processed on one device
or divided among n replicas. Therefore the noise does not come from a generator with state: example
i of the global batch uses the counters [i·m, (i+1)·m) of a counter-based generator, and a replica
with the examples [a, b) uses only theirs.
"""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

_PHILOX = 1
# One Philox counter yields four words of 32 bits, and two words two normals.
_PER_COUNTER = 4


@dataclasses.dataclass(frozen=True)
class Draws:
    """The noise of one batch, identified by its training step and its place in the global batch.

    Attributes:
        step: Training step, an int or an integer scalar tensor.
        offset: Index of the batch's first example in the global batch, likewise.
    """

    step: int | tf.Tensor = 0
    offset: int | tf.Tensor = 0

    def normal(self, like: tf.Tensor, samples: int, seed: int, stream: int = 0) -> list[tf.Tensor]:
        """Standard normal noise for `samples` perturbations of every example.

        Args:
            like: The tensor to be perturbed, [batch, …].
            samples: Number of draws per example.
            seed: Seed of the estimator.
            stream: Index of the input in a network with several; each has independent noise.

        Returns:
            `samples` tensors with the shape and dtype of `like`.
        """
        return self._drawn(like, samples, seed, stream, _box_muller)

    def uniform(self, like: tf.Tensor, seed: int, stream: int = 0) -> tf.Tensor:
        """Numbers that are uniform in −1 to 1, one for each of `like`; arguments: see `normal`."""
        return self._drawn(like, 1, seed, stream, _between_minus_one_and_one)[0]

    def _drawn(
        self,
        like: tf.Tensor,
        samples: int,
        seed: int,
        stream: int,
        from_words: Callable[[tf.Tensor], tf.Tensor],
    ) -> list[tf.Tensor]:
        """`samples` tensors like `like` of the numbers that are made of words, one of each."""
        shape = tf.shape(like)
        per_example = tf.reduce_prod(shape[1:]) * samples
        counters = (per_example + _PER_COUNTER - 1) // _PER_COUNTER
        low = tf.cast(self.offset, tf.int64) * tf.cast(counters, tf.int64)
        high = tf.cast(self.step, tf.int64)
        words = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=tf.stack([shape[0], counters * _PER_COUNTER]),
            key=tf.constant([(seed * 1_000_003 + stream) % 2**63], tf.uint64),
            counter=tf.cast(tf.stack([low, high]), tf.uint64),
            alg=_PHILOX,
            dtype=tf.uint32,
        )
        flat = from_words(words)
        noise = tf.reshape(flat[:, :per_example], tf.concat([shape[:1], [samples], shape[1:]], 0))
        draws = tf.unstack(tf.cast(noise, like.dtype), num=samples, axis=1)
        return [tf.ensure_shape(d, like.shape) for d in draws]


def _box_muller(words: tf.Tensor) -> tf.Tensor:
    """√(−2 ln u) (cos 2πv, sin 2πv) for pairs (u, v) of uniform numbers.

    TensorFlow's kernels and XLA yield the same words for a counter, but different normal numbers
    for the words. Computed in float64 and rounded to float32, they agree.

    Args:
        words: Uniform uint32, [batch, n], n even.

    Returns:
        Standard normal float32, [batch, n].
    """
    uniform = (tf.cast(words, tf.float64) + 0.5) * 2.0**-32
    radius = tf.sqrt(-2.0 * tf.math.log(uniform[:, ::2]))
    angle = 2.0 * math.pi * uniform[:, 1::2]
    return tf.cast(tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], 1), tf.float32)


def _between_minus_one_and_one(words: tf.Tensor) -> tf.Tensor:
    """Uniform numbers in −1 to 1, float32, for words of uniform uint32."""
    return tf.cast((tf.cast(words, tf.float64) + 0.5) * 2.0**-31 - 1, tf.float32)
