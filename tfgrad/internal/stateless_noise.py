"""Noise that depends on (seed, step, example) and on nothing else.

An estimator with random draws must give the same numbers whether a global batch is processed on
one device or cut over n replicas. So noise is not taken from a stateful stream: example i of the
global batch owns the counters [i·m, (i+1)·m) of a counter-based generator, and a replica that
holds examples [a, b) draws just these.
"""

import dataclasses
import math
from typing import Any

import tensorflow as tf

_PHILOX = 1
# One Philox counter yields four words of 32 bits, and two words two normals.
_PER_COUNTER = 4


@dataclasses.dataclass(frozen=True)
class Draws:
    """Where in the random sequence a batch stands.

    Attributes:
        step: the training step, int or int64 scalar.
        offset: the position of the batch's first example in the global batch.
    """

    step: Any = 0
    offset: Any = 0

    def normal(self, like, samples: int, seed: int, stream: int = 0):
        """Standard normal noise for `samples` perturbations of every example.

        Args:
            like: the tensor to be perturbed, [batch, …].
            samples: how many draws per example.
            seed: of the estimator.
            stream: tells apart the several inputs of one network.

        Returns:
            A list of `samples` tensors shaped and typed like `like`.
        """
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
        flat = _box_muller(words)
        noise = tf.reshape(flat[:, :per_example], tf.concat([shape[:1], [samples], shape[1:]], 0))
        draws = tf.unstack(tf.cast(noise, like.dtype), num=samples, axis=1)
        return [tf.ensure_shape(d, like.shape) for d in draws]


def _box_muller(words):
    """√(−2 ln u) (cos 2πv, sin 2πv) of pairs of uniform words: float32 normals, as many as words.

    TensorFlow's kernels and XLA make the same words of a counter and different normals of the
    words. Computed in float64 and rounded to float32, these do not depend on who computes them.
    """
    uniform = (tf.cast(words, tf.float64) + 0.5) * 2.0**-32
    radius = tf.sqrt(-2.0 * tf.math.log(uniform[:, ::2]))
    angle = 2.0 * math.pi * uniform[:, 1::2]
    return tf.cast(tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], 1), tf.float32)
