"""Trained networks from files and work directories, with what is recorded of them."""

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import tfgrad
from tfgrad import data, loading, models
from tfgrad.errors import ArgumentError, DataError, ModelError
from tfgrad.gradients import class_scores
from tfgrad.internal import regular_files
from tfgrad.loading import is_pretrained, pretrained
from tfgrad.models import output_meaning

from . import digits_network, invocation, network_record, pixel_range, work_directory

FLAGS = flags.FLAGS

_TEST_BATCH = 250

Statistics = tuple[np.ndarray, np.ndarray]


class Learned:
    """A trained network without its penalties, and what is recorded of it.

    Args:
        path: A .keras or .h5 file, the work directory of a training run, the name of a network
            that `tfgrad.loading.pretrained` knows, or "digits" (`digits_network`).
        record: What is known of the network; default: what is written beside the file.

    Attributes:
        path: The model file, or the name.
        network: The network.
        record: What is known of it; "normalize" is also there if the network's first layers tell
            which range its images have.
        told: Whether its first layers tell it, or its name.
        image_range: The values of black and white that a network known by its name takes.
        accuracy: Its test accuracy, or None.
    """

    def __init__(self, path: str, record: Mapping[str, Any] | None = None) -> None:
        self.image_range: pixel_range.Range | None = None
        self.told, self.path = False, _network_file(path)
        named = _by_name(path)
        if named is None:
            self.network = load_network(self.path)
        else:
            self.network, classes, self.image_range = named
            self.told = self.image_range != pixel_range.UNIT
            scaled = pixel_range.as_statistics(self.image_range, self.network.inputs[0].shape[-1])
            record = record or {"classes": classes and list(classes), "normalize": scaled}
            output_meaning.remember(self.network, getattr(FLAGS, "outputs", None))
        for beside in ("results.json", _stem(self.path) + ".json"):
            record = record or work_directory.read_json(
                os.path.join(os.path.dirname(self.path), beside)
            )
        self.record = network_record.checked(self.path, record)
        found = None if "normalize" in self.record else models.image_range(self.network)
        if found is not None:
            statistics = pixel_range.as_statistics(found, self.network.inputs[0].shape[-1])
            self.told, self.record = True, {**self.record, "normalize": statistics}
        tested = self.record.get("test") or {}
        self.accuracy = self.record.get("accuracy", tested.get("val_accuracy"))

    def __str__(self) -> str:
        tested = "" if self.accuracy is None else f", test accuracy {self.accuracy:.2%}"
        return f"{self.network.name}, {self.network.count_params():,} parameters{tested}"

    def on_pixels(self) -> keras.Model:
        """The network with the scaling in front that its record tells, if it tells any."""
        return on_pixels(self.network, self.record.get("normalize"))

    def statistics(self, train: data.Dataset) -> Statistics | None:
        """(mean, std) of the images it was trained on; those of `train` if none are recorded."""
        if "normalize" not in self.record:
            return data.channel_statistics(train)
        given = self.record["normalize"]
        return None if given is None else (_channels(given[0]), _channels(given[1]))


def load_network(path: str) -> keras.Model:
    """The network of a .keras or .h5 file, without the penalties it was trained with.

    Of a model that ends in a softmax or a sigmoid, the part before it, which the command reports.

    Raises:
        ModelError: The file cannot be loaded.
    """
    model = loading.load(path, compile=False)
    network = model.network if isinstance(model, tfgrad.PenalizedModel) else model
    logits = tfgrad.models.logits(network)
    if logits is not network:
        note = "returns probabilities; its last activation is left out, and its logits are used"
        print(f"{path}: {note}", file=sys.stderr, flush=True)
    output_meaning.remember(logits, getattr(FLAGS, "outputs", None))
    return logits


def define_outputs() -> None:
    """Define the flag that says what the outputs of a model mean."""
    flags.DEFINE_enum(
        "outputs",
        None,
        output_meaning.MEANINGS,
        "What the model's outputs mean; default: what the loss that it was compiled with says.",
    )


def from_run(work_dir: str) -> tuple[keras.Model, Sequence[str]]:
    """(network on pixels in [0, 1], class names) of a finished run.

    Raises:
        ModelError: The run is not finished, or its network cannot be loaded.
    """
    results = work_directory.read_json(os.path.join(work_dir, "results.json"))
    if results is None:
        raise ModelError(
            f"--work_dir: got {work_dir!r}, which holds no finished run (no results.json); "
            f"expected a work directory of {invocation.named('train')}; try that command first."
        )
    record = network_record.checked(work_dir, results)
    if not {"normalize", "classes"} <= record.keys():
        raise ModelError(
            f"--work_dir: got {work_dir!r}, whose results.json is damaged; expected the record "
            f"that {invocation.named('train')} writes; try that command again."
        )
    network = load_network(_network_file(work_dir))
    return on_pixels(network, record["normalize"]), record["classes"]


def from_file(
    path: str,
) -> tuple[keras.Model, Sequence[str] | None, pixel_range.Range | None]:
    """(network, class names, range of its pixels) of a file or name, where they are known.

    A network whose record tells how its images were normalised is returned on pixels in [0, 1].
    --image_range is followed otherwise.

    Raises:
        ModelError: The file cannot be loaded.
        ArgumentError: --image_range is wrong, or was given where the record tells the range.
    """
    learned, asked = Learned(path), pixel_range.given()
    classes = learned.record.get("classes")
    if learned.image_range is not None:
        if asked is not None:
            raise ArgumentError(
                f"--image_range: got {asked} for {path}, which takes {learned.image_range}; "
                "expected none."
            )
        return learned.network, classes, learned.image_range
    if learned.told or "normalize" not in learned.record:
        return learned.network, classes, asked
    if asked is not None:
        raise ArgumentError(
            f"--image_range: got {asked}, but the record beside {path} tells how the network's "
            "images were normalised; expected none. Move the file away from its record otherwise."
        )
    return learned.on_pixels(), classes, pixel_range.UNIT


def image_size(path: str) -> tuple[int, int] | None:
    """(height, width) of the images that a network takes; None where it takes any.

    Args:
        path: See `Learned`. Of a work directory, its record tells.
    """
    record = work_directory.read_json(os.path.join(path, "results.json"))
    shape = record.get("input_shape") if isinstance(record, Mapping) else None
    if not isinstance(shape, list) or not all(isinstance(side, int) for side in shape):
        shape = Learned(path).network.input_shape[1:]
    if len(shape) != 3 or None in shape:
        return None
    return shape[0], shape[1]


def on_pixels(network: keras.Model, statistics: Any) -> keras.Model:
    """The network with its normalisation in front, so that it takes pixels in [0, 1].

    Args:
        network: Network on normalised images.
        statistics: (mean, std) of the channels, or None where images are not normalised.
    """
    if statistics is None:
        return network
    mean, deviation = (_channels(s) for s in statistics)
    pixels = keras.Input(network.input_shape[1:], name="image")
    scaled = keras.layers.Normalization(mean=mean, variance=deviation**2, name="normalize")(pixels)
    scaled_first = keras.Model(pixels, network(scaled), name=network.name)
    return output_meaning.inherit(scaled_first, network)


def note_unknown(learned: Learned) -> None:
    """Say of a network whose images nothing tells how they are scaled."""
    if "normalize" not in learned.record:
        print(
            f"{learned.path}: neither a record beside it nor its first layers tell the range of "
            "its pixels; they are taken to be in [0, 1], where no flag of this command tells it",
            flush=True,
        )


def file_digest(path: str) -> str:
    """The digest of a network's file, which tells one network from another.

    Raises:
        ModelError: The file cannot be read.
    """
    path = _network_file(path)
    if _is_name(path):
        return hashlib.sha256(f"{path}, Keras {keras.__version__}".encode()).hexdigest()[:16]
    try:
        with regular_files.opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}); expected a .keras or .h5 file, or a "
            f"directory of {invocation.named('train')}."
        ) from error


def normalised(dataset: data.Dataset, statistics: Statistics | None) -> np.ndarray:
    """All images as one float array, normalised if statistics are given."""
    images = dataset.images.astype(np.float32)
    if dataset.images.dtype == np.uint8:
        images /= 255.0
    if statistics is not None:
        if statistics[0].shape != images.shape[-1:]:
            raise DataError(
                f"--dataset: got {dataset.name!r}, whose images have {images.shape[-1]} channels; "
                f"expected {len(statistics[0])}, which the network's images had."
            )
        images -= statistics[0]
        images /= statistics[1]
    return images


def accuracy(network: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of right predictions in inference mode; of the head "target" if there are two."""
    logits = network.predict(images, batch_size=_TEST_BATCH, verbose=0)
    if isinstance(logits, Mapping):
        logits = logits["target"]
    meaning = output_meaning.meaning(network, count=logits.shape[-1])
    return float(np.mean(class_scores.predicted(tf.constant(logits), meaning).numpy() == labels))


def _network_file(path: str) -> str:
    return os.path.join(path, "network.keras") if os.path.isdir(path) else path


def _is_name(path: str) -> bool:
    return not os.path.isfile(path) and (path == digits_network.NAME or is_pretrained(path))


def _by_name(path: str) -> tuple[keras.Model, Sequence[str] | None, pixel_range.Range] | None:
    """(network, class names, range of its pixels) of a network by its name; None for a path."""
    if not _is_name(path):
        return None
    if path == digits_network.NAME:
        return (*digits_network.trained(), pixel_range.UNIT)
    found = pretrained(path)
    return found.network, found.class_names, found.image_range


def _stem(path: str) -> str:
    """The name of a file without its suffix."""
    return os.path.splitext(os.path.basename(path))[0]


def _channels(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)
