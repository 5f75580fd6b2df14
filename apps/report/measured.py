"""A network that is reported on, the images, and the predictions that several sections read."""

import numpy as np
import tensorflow as tf
from absl import flags

from tfgrad import data
from tfgrad.gradients import class_scores
from tfgrad.models import output_meaning

from ..common import tested_networks
from ..common.tested_networks import TestedNetwork
from ..common.training_record import TrainingRecord

FLAGS = flags.FLAGS


class Measured:
    """A network, the images, and the predictions that several sections read.

    Args:
        tested: The network.
        images: The images to test on.
        record: What is recorded of its training.
    """

    def __init__(self, tested: TestedNetwork, images: data.Dataset, record: TrainingRecord) -> None:
        self.tested, self.images, self.record = tested, images, record
        self.few = tested_networks.first(images, FLAGS.images)
        logits = tested.network.predict(
            data.pipeline(images, FLAGS.batch_size, training=False, normalize=tested.statistics),
            verbose=0,
        )
        meaning = output_meaning.meaning(tested.network, count=logits.shape[-1])
        self.predicted = class_scores.predicted(tf.constant(logits), meaning).numpy()
        self.probabilities = class_scores.probabilities(tf.constant(logits), meaning).numpy()
        self.right = self.predicted == images.labels

    def all_images(self) -> str:
        """All images, in words."""
        return f"{len(self.images):,} images of {self.images.name!r}, split {self.images.split}"

    def some_images(self) -> str:
        """The first images, in words."""
        return f"the first {len(self.few)} images of {self.images.name!r}"

    def inputs(self, chosen: np.ndarray) -> np.ndarray:
        """Some images, as the network takes them."""
        picked = self.images.images[chosen], self.images.labels[chosen]
        some = tested_networks.with_examples(self.images, *picked)
        stream = data.pipeline(some, len(chosen), training=False, normalize=self.tested.statistics)
        return next(iter(stream))[0].numpy()
