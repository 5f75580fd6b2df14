"""A served network, images of every kind for it, and a run of `apps.map_dataset` without Beam."""

import dataclasses

import numpy as np
import tensorflow as tf

from apps.map_dataset import __main__ as command
from apps.map_dataset import explainer, part_run
from tests.helpers import serving_cases
from tfgrad import export, saliency

METHODS = ("fullgrad", "input_gradient")
SIZE = (8, 9)


def exported(directory, shape=(8, 9, 3), **options):
    """(network, directory) of a small served network with maps under `METHODS`."""
    network = serving_cases.build(shape)
    options = {"image_range": (0, 1), "warmup": False, **options}
    export.save(network, directory, METHODS, **options)
    return network, directory


def live(network, images, target=None):
    """{method: maps} of the live network."""
    return {name: saliency.get(name)(network)(images, target).numpy() for name in METHODS}


class Runner:
    """Computes parts in this process, and may be killed after some of them.

    Args:
        stop_after: Number of parts after which it is killed.
    """

    def __init__(self, stop_after=10**9):
        self.left, self.parts = stop_after, []

    def __call__(self, job, parts, watch):
        for part in parts:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.parts.append(part.index)
            part_run.run(job, part, explainer.in_process(job.model))
            watch()


@dataclasses.dataclass
class Command:
    """`apps.map_dataset` with a `Runner` in the place of Beam, as `in_process` takes it."""

    runner: Runner = dataclasses.field(default_factory=Runner)
    __name__ = "apps/map_dataset/__main__"
    define_flags = staticmethod(command.define_flags)

    def main(self):
        command.check_flags()
        command.compute(self.runner, False)


def write_records(path, contents, labels=None):
    """A TFRecord file of examples with encoded images; bytes that are no image stay as they are."""
    with tf.io.TFRecordWriter(str(path)) as file:
        for row, content in enumerate(contents):
            example = tf.train.Example()
            features = example.features.feature
            features["image/encoded"].bytes_list.value.append(content)
            if labels is not None:
                features["label"].int64_list.value.append(int(labels[row]))
            file.write(example.SerializeToString())


def pictures(count, seed=0):
    """PNG files of the network's size, and their pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3)).astype("uint8")
    return [tf.io.encode_png(one).numpy() for one in pixels], pixels.astype("float32") / 255


def options(**given):
    """Flags as arguments."""
    return [f"--{name}={value}" for name, value in given.items()]
