"""The model and the data of a comparison, with what several tests ask of them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tfgrad.evaluation.batches import placed
from tfgrad.gradients import output_heads, targets
from tfgrad.models import output_meaning

TIMED_BATCHES = 3


@dataclasses.dataclass
class ComparedModel:
    """A model and data.

    Attributes:
        network: The model that is explained.
        data: Batches of (images, labels).
        count: Number of images for the tests that do not use the whole data set.
    """

    network: Any
    data: Iterable[Any]
    count: int

    @functools.cached_property
    def digest(self) -> bytes:
        """The digest of all images in order, read in a pass of its own."""
        digest = hashlib.blake2b()
        for x, _ in self.data:
            digest.update(image_bytes(tf.convert_to_tensor(x)))
        return digest.digest()

    @functools.cached_property
    def sample(self) -> tf.Tensor:
        """The first `count` images."""
        parts, left = [], self.count
        for x, _, _ in placed(self.data, self.network):
            parts.append(x[:left])
            left -= len(parts[-1])
            if not left:
                break
        return tf.concat(parts, 0)

    def predicted(self, x: Any) -> tf.Tensor:
        """The predicted classes of a batch, int32 [batch]."""
        return self._classify(x)

    @functools.cached_property
    def _classify(self) -> Any:
        def classify(x: tf.Tensor) -> tf.Tensor:
            logits = output_heads.logits(self.network, self.network(x, training=False))
            meaning = output_meaning.meaning(self.network, count=logits.shape[-1])
            return targets.classes("predicted", logits, meaning=meaning)

        return tf.function(classify, autograph=False, reduce_retracing=True)

    @functools.cached_property
    def first_batches(self) -> list[tuple[Any, Any]]:
        """The first batches as (images, predicted classes), repeated if the data are short."""
        read = itertools.islice(placed(self.data, self.network), TIMED_BATCHES)
        batches = [(x, self.predicted(x)) for x, _, _ in read]
        return list(itertools.islice(itertools.cycle(batches), TIMED_BATCHES))


def image_bytes(x: tf.Tensor) -> bytes:
    """The bytes of a batch of images, for a digest."""
    return x.numpy().tobytes()
