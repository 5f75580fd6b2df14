"""The model and the data of a comparison, with what several tests ask of them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

from tfgrad import saliency
from tfgrad.evaluation import networks
from tfgrad.evaluation.batches import Placed, placed
from tfgrad.gradients import output_heads, targets
from tfgrad.gradients.targets import Target
from tfgrad.models import output_meaning
from tfgrad.saliency import asked

TIMED_BATCHES = 3


@dataclasses.dataclass
class ComparedModel:
    """A model and data.

    Attributes:
        network: The model that is explained.
        data: Batches of (images, labels), or of inputs for a target.
        count: Number of images for the tests that do not use the whole data set.
        asks: The target that all tests measure; None for classes.
        inputs: The key or position of the input that the tests look at, of several.
    """

    network: Any
    data: Iterable[Any]
    count: int
    asks: Target | None = None
    inputs: Any = None

    def read(self) -> Iterator[Placed]:
        """One pass over the data; see `placed`."""
        return placed(self.data, self.network, "label" if self.asks is None else self.asks)

    @functools.cached_property
    def digest(self) -> bytes:
        """The digest of all images in order, read in a pass of its own."""
        digest = hashlib.blake2b()
        for x, _, _ in self.read():
            digest.update(image_bytes(x))
        return digest.digest()

    @functools.cached_property
    def sample(self) -> Any:
        """The first `count` images."""
        parts, left = [], self.count
        for x, _, _ in self.read():
            parts.append(tf.nest.map_structure(lambda t, left=left: t[:left], x))
            left -= batch_size(parts[-1])
            if not left:
                break
        return tf.nest.map_structure(lambda *tensors: tf.concat(tensors, 0), *parts)

    @property
    def asked_of_sample(self) -> Target | None:
        """The target, with its values for the images of `sample`."""
        if self.asks is None:
            return None
        rows = networks.rows_of(self.asks, 0, batch_size(self.sample))
        return asked.with_tensors(self.asks, rows)

    def question(self, x: Any, y: Any) -> Any:
        """What a map function is asked of a batch: its predicted classes, or the target y."""
        return self.predicted(x) if self.asks is None else y

    def predicted(self, x: Any) -> tf.Tensor:
        """The predicted classes of a batch, int32 [batch]."""
        return self._classify(x)

    @functools.cached_property
    def _classify(self) -> Any:
        def classify(x: Any) -> tf.Tensor:
            logits = output_heads.logits(self.network, self.network(x, training=False))
            meaning = output_meaning.meaning(self.network, count=logits.shape[-1])
            return targets.classes("predicted", logits, meaning=meaning)

        return tf.function(classify, autograph=False, reduce_retracing=True)

    @functools.cached_property
    def input_gradient(self) -> saliency.InputGradient:
        """The method that costs are relative to."""
        return saliency.InputGradient(self.network, target=self.asks, inputs=self.inputs)

    @functools.cached_property
    def first_batches(self) -> list[tuple[Any, Any]]:
        """The first batches as (images, what is asked), repeated if the data are short."""
        batches = []
        for x, y, _ in itertools.islice(self.read(), TIMED_BATCHES):
            y = y if self.asks is None else asked.with_tensors(self.asks, y)
            batches.append((x, self.question(x, y)))
        return list(itertools.islice(itertools.cycle(batches), TIMED_BATCHES))


def batch_size(x: Any) -> int:
    """The number of examples in a nest of inputs."""
    return tf.nest.flatten(x)[0].shape[0]


def image_bytes(x: Any) -> bytes:
    """The bytes of a batch of images, for a digest."""
    return b"".join(t.numpy().tobytes() for t in tf.nest.flatten(x))
