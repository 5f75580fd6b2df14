"""Networks that are tested, and the images they are tested on, as flags name them."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import tfgrad
from tfgrad import data
from tfgrad.errors import ModelError

from . import shared_flags, trained_networks
from .progress import Progress
from .trained_networks import Learned

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define which images, and what outputs mean."""
    trained_networks.define_outputs()
    flags.adopt_module_key_flags(trained_networks)  # for --help
    shared_flags.define_dataset()
    flags.adopt_module_key_flags(shared_flags)
    flags.DEFINE_string("split", "test", "Split or slice of --dataset to test on.")
    flags.DEFINE_integer("count", None, "Test only on this many images, the first.", lower_bound=1)
    flags.DEFINE_bool(
        "normalize",
        False,
        "Normalise by the statistics of --train_split where no record beside a network tells how.",
    )
    flags.DEFINE_string("train_split", "train", "Split whose statistics --normalize takes.")
    flags.DEFINE_integer(
        "batch_size", 256, "Images per batch; a smaller one needs less memory.", lower_bound=1
    )


def images(path: str) -> data.Dataset:
    """The images to test on, the first --count of --split.

    Args:
        path: The network whose size the images of a folder take without --image_size.
    """
    whole = FLAGS.count is None or "[" in FLAGS.split
    split = FLAGS.split if whole else shared_flags.part_of(FLAGS.split, 0, FLAGS.count)
    found = _load(split, path)
    return found if FLAGS.count is None else first(found, FLAGS.count)


def first(images: data.Dataset, count: int) -> data.Dataset:
    """The first images of a data set, all of them where there are fewer."""
    return with_examples(images, images.images[:count], images.labels[:count])


def with_examples(dataset: data.Dataset, images: np.ndarray, labels: np.ndarray) -> data.Dataset:
    """A data set with other images and labels."""
    return dataclasses.replace(dataset, images=images, labels=labels)


def _load(split: str, path: str) -> data.Dataset:
    return shared_flags.load(split, lambda: trained_networks.image_size(path))


@dataclasses.dataclass(frozen=True)
class TestedNetwork:
    """A network that is tested.

    Attributes:
        name: Name in tables.
        network: Network from normalised images to logits.
        statistics: (mean, std) of the channels that normalise its images, or None.
        learned: What is recorded of it.
    """

    __test__ = False  # no test of pytest

    name: str
    network: keras.Model
    statistics: Any
    learned: Learned

    @property
    def black(self) -> Any:
        """The value of a black pixel, one for each channel where images are normalised."""
        if self.statistics is None:
            return 0.0
        mean, std = self.statistics
        return -np.asarray(mean) / np.asarray(std)

    def batches(self, images: data.Dataset) -> Any:
        """Batches of normalised images and labels, which print their progress."""
        stream = data.pipeline(images, FLAGS.batch_size, training=False, normalize=self.statistics)
        return _Watched(stream, len(images))

    def on_pixels(self) -> Self:
        """The same network on pixels in [0, 1], with its normalisation in front."""
        network = trained_networks.on_pixels(self.network, self.statistics)
        return dataclasses.replace(self, network=network, statistics=None)


class _Watched:
    """Batches that print how many images have been read, and the time left."""

    def __init__(self, batches: tf.data.Dataset, count: int) -> None:
        self.batches, self.count = batches, count

    def __iter__(self) -> Iterator[Any]:
        clock, done = Progress(self.count), 0
        for batch in self.batches:
            yield batch
            done += len(batch[1])
            clock.done(done)


def load(name: str, path: str, images: data.Dataset, flag: str = "--models") -> TestedNetwork:
    """Load a network and check that it takes these images.

    Args:
        name: Name in tables.
        path: Work directory of a run, a .keras or .h5 file, or the name of a network.
        images: Images to test on.
        flag: The flag that names the network.

    Raises:
        ModelError: The network takes other images, or does not return logits of their classes.
    """
    learned = Learned(path)
    network = learned.network
    if isinstance(network, tfgrad.PenalizedModel):
        network = network.network
    given, expected = network.input_shape, (None, *images.image_shape)
    if not isinstance(given, tuple) or not tf.TensorShape(given).is_compatible_with(expected):
        raise ModelError(
            f"{flag}: got {name!r}, which takes inputs {given}; expected {expected}, the images "
            f"of {images.name!r}; try --image_size, or another --dataset."
        )
    if network.output_shape != (None, len(images.classes)):
        raise ModelError(
            f"{flag}: got {name!r}, which returns {network.output_shape}; expected logits (None, "
            f"{len(images.classes)}), one for each class of {images.name!r}."
        )
    known, statistics = "normalize" in learned.record, None
    if learned.told:  # so that noise and black are those of pixels in [0, 1]
        network = trained_networks.on_pixels(network, learned.record["normalize"])
    elif known or FLAGS.normalize:
        statistics = learned.statistics(images if known else _load(FLAGS.train_split, path))
    else:
        trained_networks.note_unknown(learned)
    print(f"{name}: {learned}", flush=True)
    return TestedNetwork(name, network, statistics, learned)
