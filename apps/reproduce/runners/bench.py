"""What the cells of an examination share: images, trained networks and the user's options."""

import dataclasses
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import data

from ...common.trained_networks import Learned, accuracy, normalised
from ..schema import Examination, ExaminedNetwork
from .network_training import trained

BATCH = 250

# What a test returns: numbers for the record, and arrays for pictures.
Found = tuple[dict[str, Any], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Options:
    """The user's choices beside the experiment; of these, only the files change results.

    Attributes:
        data_dir: Directory of the data sets.
        download: Whether data sets may be downloaded.
        teacher: File of the teacher, or directory of a training run.
        pretrained: The same for the network from which pre-trained students start.
        jit_compile: Whether to compile the training step with XLA.
        networks_dir: Directory of the examined networks; None for one in the work directory.
    """

    data_dir: str | None = None
    download: bool = False
    teacher: str | None = None
    pretrained: str | None = None
    jit_compile: bool = False
    networks_dir: str | None = None

    def load(self, name: str, image_size: tuple[int, int] | None, split: str) -> data.Dataset:
        """Load one split of a data set."""
        return data.load(name, split, self.data_dir, self.download, image_size)


class Bench:
    """Test images, the judge, and the networks, which are trained when they are first needed."""

    def __init__(self, experiment: Examination, work_dir: str, options: Options) -> None:
        self.experiment, self.work_dir, self.options = experiment, work_dir, options
        self._splits: dict[Any, data.Dataset] = {}
        one = experiment.subject
        self.test = self.load(one.dataset, one.image_size, one.test_split)
        self._found: dict[str, Learned] = {}

    def network(self, wanted: ExaminedNetwork, epoch: int | None = None) -> Learned:
        """A network, trained first if need be.

        Args:
            wanted: The network.
            epoch: Epoch after which the returned copy was kept; None for the end of training.
        """
        directory = self.options.networks_dir or os.path.join(self.work_dir, "networks")
        path = trained(wanted, self.load, directory, self.options.jit_compile)
        if path not in self._found:
            self._found[path] = Learned(path)
        if epoch is None:
            return self._found[path]
        record = self._found[path].record
        known = {"normalize": record["normalize"], "epochs": record["epochs"][:epoch]}
        return Learned(f"{path.removesuffix('.keras')}-epoch{epoch}.keras", known)

    def judge(self) -> keras.Model:
        """The classifier of generated images."""
        assert self.experiment.judge is not None
        return self.network(self.experiment.judge).network

    def batches(
        self, learned: Learned, dataset: data.Dataset | None = None, batch_size: int = BATCH
    ) -> tf.data.Dataset:
        """Images, normalised as the network's training images were, with their labels.

        Args:
            learned: The network.
            dataset: The images; default: those of `examples`.
            batch_size: Number of images in a batch.
        """
        return data.pipeline(
            self.examples() if dataset is None else dataset,
            batch_size,
            training=False,
            normalize=learned.statistics(self.test),
        )

    def examples(self) -> data.Dataset:
        """The first test images, as many as the tests use."""
        count = self.experiment.examples
        return dataclasses.replace(
            self.test, images=self.test.images[:count], labels=self.test.labels[:count]
        )

    def accuracy(self, learned: Learned) -> float:
        """Accuracy on the whole test split."""
        images = normalised(self.test, learned.statistics(self.test))
        return accuracy(learned.network, images, self.test.labels)

    def load(self, name: str, image_size: tuple[int, int] | None, split: str) -> data.Dataset:
        """A split of a data set, read once for all cells."""
        key = name, image_size, split
        if key not in self._splits:
            self._splits[key] = self.options.load(*key)
        return self._splits[key]

    def one_of_each(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Test images in [0, 1] and their labels, which run through the classes in turn."""
        classes = len(self.test.classes)
        chosen = data.subset(self.test, -(-count // classes), seed=0)
        order = np.argsort(chosen.labels, kind="stable").reshape(classes, -1).T.ravel()[:count]
        return normalised(chosen, None)[order], chosen.labels[order]
