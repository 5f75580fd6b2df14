"""Trains the cells of an experiment on images."""

import dataclasses
import gc
import os
import time
from typing import Any

import keras
import numpy as np

import tfgrad
from tfgrad import callbacks, data, models
from tfgrad.errors import ArgumentError, ModelError, NonFiniteError

from ...common.trained_networks import Learned, Statistics, accuracy, file_digest, normalised
from ..papers.transfer import REDUCTION
from ..schema import ACCURACY, FULL, Cell, Experiment, Row, Source
from .networks import build_penalty, with_dropout
from .trained_networks import compile_model, trained

ANGLE = "gradient_angle"


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user chooses beside the experiment; nothing here but the files changes a result."""

    data_dir: str | None = None
    download: bool = False
    teacher: str | None = None
    pretrained: str | None = None
    jit_compile: bool = False
    networks_dir: str | None = None


def settings(experiment: Experiment, options: Options) -> dict[str, Any]:
    """What the results of all cells depend on, files that stand for trained networks included."""
    described = experiment.settings()
    for role, path in (("teacher", options.teacher), ("pretrained", options.pretrained)):
        if path is not None:
            if described[role] is None:
                raise ArgumentError(f"--{role}: {experiment.name} uses none; leave it out.")
            described[role] = {"file": file_digest(path)}
    return described


def missing(experiment: Experiment, row: Row, options: Options) -> str | None:
    """The file without which a row cannot run, as a message."""
    for role, wanted in (("teacher", experiment.teacher), ("pretrained", experiment.pretrained)):
        needed = row.pretrained if role == "pretrained" else True
        if needed and wanted and not wanted.training and not getattr(options, role):
            return (
                f"--{role}: not given; {experiment.name} at --scale={experiment.scale} needs a "
                f"{wanted.network} trained on {wanted.dataset}, --{role}=FILE.keras."
            )
    return None


class Bench:
    """Data and trained networks of one experiment, made once and shared by its cells."""

    def __init__(self, experiment: Experiment, work_dir: str, options: Options):
        self.experiment, self.work_dir, self.options = experiment, work_dir, options
        where = (experiment.dataset, experiment.image_size)
        self.train = self._load(*where, experiment.train_split)
        self.test = self._load(*where, experiment.test_split)
        self.classes = len(self.train.classes)
        self._pretrained: Learned | None = None
        self.teacher: Learned | None = None
        self.statistics: Statistics | None
        if experiment.teacher is None:
            self.statistics = data.channel_statistics(self.train)
        else:
            self.teacher = self._learned(experiment.teacher, options.teacher)
            self.statistics = self.teacher.statistics(self.train)
            self._check_teacher(self.teacher.network)
        self._test_images: np.ndarray | None = None

    @property
    def pretrained(self) -> Learned:
        """The network from which a pre-trained student starts."""
        if self._pretrained is None:
            assert self.experiment.pretrained is not None
            self._pretrained = self._learned(self.experiment.pretrained, self.options.pretrained)
        return self._pretrained

    def accuracy(self, network: keras.Model) -> float:
        """On the whole test split, in inference mode."""
        if self._test_images is None:
            self._test_images = normalised(self.test, self.statistics)
        return accuracy(network, self._test_images, self.test.labels)

    def _load(self, name, image_size, split) -> data.Dataset:
        options = self.options
        return data.load(name, split, options.data_dir, options.download, image_size)

    def _learned(self, source: Source, path: str | None) -> Learned:
        if path is None:
            directory = os.path.join(self.work_dir, "teachers")
            path = trained(source, self._load, directory, self.options.jit_compile)
        learned = Learned(path)
        print(f"learning from {learned.path}: {learned}", flush=True)
        return learned

    def _check_teacher(self, network):
        expected = (None, *self.train.image_shape)
        if tuple(network.input_shape) != expected:
            raise ModelError(
                f"the teacher takes inputs {network.input_shape}; the images of "
                f"{self.train.name!r} are {expected}. Try --image_size."
            )
        two_heads = any(row.two_heads for row in self.experiment.rows)
        if not two_heads and network.output_shape[-1] != self.classes:
            raise ModelError(
                f"the teacher has {network.output_shape[-1]} classes; {self.train.name!r} has "
                f"{self.classes}. Give a teacher trained on that set."
            )


def run_cell(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Train and test one student.

    Returns:
        Accuracy, seconds, the logs of every epoch, and angles if the experiment measures them; or
        the reason why it failed.
    """
    keras.backend.clear_session()
    gc.collect()
    keras.utils.set_random_seed(cell.seed)
    start = time.perf_counter()
    experiment, row = bench.experiment, cell.row
    train = bench.train
    if cell.size != FULL:
        train = data.subset(train, cell.size, cell.seed)
    network = build_student(bench, row, train.image_shape)
    model = penalized(bench, network, row.terms)
    compile_model(
        model,
        experiment.training,
        len(train),
        row.supervised,
        head="target" if row.two_heads else None,
        jit_compile=bench.options.jit_compile,
    )
    images = normalised(train, bench.statistics)
    record = Record()
    hooks: list[keras.callbacks.Callback] = [record]
    if experiment.angle_every:
        assert bench.teacher is not None
        hooks.insert(
            0,
            callbacks.GradientAngle(
                bench.teacher.network,
                images,
                train.labels,
                target="label",
                every=experiment.angle_every,
                name=ANGLE,
            ),
        )
    result: dict[str, Any] = {}
    y: Any = {"target": train.labels} if row.two_heads else train.labels
    try:
        model.fit(
            images if model.teacher is None else model.lessons(images, y),
            y,
            batch_size=experiment.training.batch_size,
            epochs=experiment.training.epochs,
            callbacks=hooks,
            shuffle=True,
            verbose=0,
        )
        result[ACCURACY] = bench.accuracy(network)
    except NonFiniteError as error:
        result["failed"] = str(error)
    result["seconds"] = round(time.perf_counter() - start, 2)
    if bench.teacher is not None:
        result["learned_from"] = str(bench.teacher)
    result["final"] = record.epochs[-1] if record.epochs else {}
    result["epochs"] = record.epochs
    if experiment.angle_every:
        result["angles"] = [[e["epoch"], e[ANGLE]] for e in record.epochs if e.get(ANGLE)]
    if experiment.reduction_of and "failed" not in result:
        first, last = (record.epochs[i][experiment.reduction_of] for i in (0, -1))
        result[REDUCTION] = 1 - last / first
    return result


class Record(keras.callbacks.Callback):
    """Keeps every epoch's logs, and stops where the loss is not finite."""

    def __init__(self):
        super().__init__()
        self.epochs: list[dict[str, Any]] = []

    def on_epoch_end(self, epoch, logs=None):
        """Remember, and look at the loss."""
        values = {name: float(f"{float(value):.6g}") for name, value in (logs or {}).items()}
        broken = [name for name, value in values.items() if not np.isfinite(value)]
        kept = {name: None if name in broken else value for name, value in values.items()}
        self.epochs.append({"epoch": epoch + 1, **kept})
        if "loss" in broken:
            raise NonFiniteError(f"not finite after epoch {epoch + 1}: {', '.join(broken)}")


def build_student(bench: Bench, row: Row, image_shape) -> keras.Model:
    """The network of a row, with untrained weights unless it is pre-trained."""
    experiment = bench.experiment
    network = models.get(
        row.student or experiment.student, image_shape, bench.classes, width=experiment.width
    )
    if row.dropout:
        network = with_dropout(network, [row.dropout[0]], row.dropout[1])
    if row.bias_decay:
        convolution, normalisation, decay = row.bias_decay
        network.get_layer(convolution).bias.regularizer = keras.regularizers.L2(decay)
        network.get_layer(normalisation).beta.regularizer = keras.regularizers.L2(decay)
    if row.pretrained:
        take_over(network, bench.pretrained.network)
    if row.two_heads:
        assert bench.teacher is not None
        network = models.two_heads(network, bench.teacher.network.output_shape[-1])
    return network


def take_over(network: keras.Model, trained: keras.Model) -> None:
    """Copy the weights of all layers but the logits."""
    for layer in network.layers:
        if layer.weights and layer.name != "logits":
            try:
                layer.set_weights(trained.get_layer(layer.name).get_weights())
            except ValueError as error:
                raise ModelError(
                    f"the pre-trained network has no layer like {layer.name!r} of the student "
                    f"{network.name!r}; expected the same architecture and width."
                ) from error


def penalized(bench: Bench, network: keras.Model, terms) -> tfgrad.PenalizedModel:
    """The student with its penalties, and with the teacher if one of them asks it."""
    built = [build_penalty(term) for term in terms]
    if not built or bench.teacher is None:
        return tfgrad.PenalizedModel(network, built)
    return tfgrad.PenalizedModel(network, built, teacher=bench.teacher.network)
