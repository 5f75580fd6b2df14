"""Networks under test, and the images they are tested on, as flags name them."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import tfgrad
from tfgrad import data, saliency
from tfgrad.errors import ArgumentError, ModelError

from ..common import shared_flags, trained_networks
from ..common.progress import Progress

FLAGS = flags.FLAGS


def define_flags():
    """Which networks and images."""
    flags.DEFINE_list("models", [], "NAME=PATH,…: directories of runs, or .keras files.")
    shared_flags.define_dataset()
    flags.DEFINE_string("split", "test", "Split or slice to test on.")
    flags.DEFINE_integer("count", None, "Only the first so many images of it.", lower_bound=1)
    flags.DEFINE_bool(
        "normalize", False, "Where no record tells: normalise by --train_split's statistics."
    )
    flags.DEFINE_string("train_split", "train", "Of --normalize.")
    flags.DEFINE_integer("batch_size", 256, "Images at a time: bounds memory.", lower_bound=1)


def paths():
    """{name: path} of --models."""
    pairs = [text.partition("=") for text in FLAGS.models]
    names = [name for name, _, _ in pairs]
    if not pairs or not all(name and path for name, _, path in pairs):
        raise ArgumentError(
            f"--models: got {','.join(FLAGS.models) or 'none'}; expected NAME=PATH,…, such as "
            "plain=runs/plain,score=runs/score."
        )
    if len(set(names)) < len(names):
        raise ArgumentError(f"--models: got the names {', '.join(names)}; expected different ones.")
    return {name: path for name, _, path in pairs}


def images():
    """The images to test on: the first --count of --split."""
    whole = FLAGS.count is None or "[" in FLAGS.split
    found = _load(FLAGS.split if whole else f"{FLAGS.split}[:{FLAGS.count}]")
    return dataclasses.replace(
        found, images=found.images[: FLAGS.count], labels=found.labels[: FLAGS.count]
    )


def _load(split):
    size = shared_flags.image_size()
    return data.load(FLAGS.dataset, split, FLAGS.data_dir, FLAGS.download, size)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network under test.

    Attributes:
        name: in tables.
        network: images to logits.
        statistics: (mean, std) of the channels its images are normalised by, or None.
    """

    name: str
    network: keras.Model
    statistics: Any

    @functools.cached_property
    def maps(self) -> Any:
        """What ranks pixels by this network: --method."""
        return saliency.get(FLAGS.method)(self.network)

    @property
    def black(self) -> Any:
        """The value of a pixel that was 0, one for each channel where images are normalised."""
        if self.statistics is None:
            return 0.0
        mean, std = self.statistics
        return -np.asarray(mean) / np.asarray(std)

    def batches(self, images: data.Dataset) -> Any:
        """Images as this network takes them, with labels."""
        stream = data.pipeline(images, FLAGS.batch_size, training=False, normalize=self.statistics)
        return _Watched(stream, len(images))


class _Watched:
    """A stream of batches that says how far it has been read, and how long the rest will take."""

    def __init__(self, batches: tf.data.Dataset, count: int):
        self.batches, self.count = batches, count

    def __iter__(self) -> Iterator[Any]:
        clock, done = Progress(self.count), 0
        for batch in self.batches:
            yield batch
            done += len(batch[1])
            clock.done(done)


def load(name, path, images):
    """The network of a path, which has to take such images.

    Raises:
        ModelError: it does not, or returns no logits of their classes.
    """
    learned = trained_networks.Learned(path)
    network = learned.network
    if isinstance(network, tfgrad.PenalizedModel):
        network = network.network
    given, expected = network.input_shape, (None, *images.image_shape)
    if not isinstance(given, tuple) or not tf.TensorShape(given).is_compatible_with(expected):
        raise ModelError(
            f"--models: {name!r} takes inputs {given}; the images of {images.name!r} are "
            f"{expected}. Try --image_size, or another --dataset."
        )
    if network.output_shape != (None, len(images.classes)):
        raise ModelError(
            f"--models: {name!r} returns {network.output_shape}; {images.name!r} has "
            f"{len(images.classes)} classes, so expected logits (None, {len(images.classes)})."
        )
    known = "normalize" in learned.record
    statistics = None
    if known or FLAGS.normalize:
        statistics = learned.statistics(images if known else _load(FLAGS.train_split))
    print(f"{name}: {learned}", flush=True)
    return Subject(name, network, statistics)
