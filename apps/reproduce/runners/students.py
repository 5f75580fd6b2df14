"""Runs the cells of an `Experiment`: trains students on images, and tests them."""

import gc
import os
import time
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

import tfgrad
from tfgrad import callbacks, data, models
from tfgrad.errors import ArgumentError, ModelError, NonFiniteError

from ...common.trained_networks import Learned, Statistics, accuracy, file_digest, normalised
from ..schema import ACCURACY, FULL, REDUCTION, Cell, Experiment, Row, Source, Term
from .bench import Options
from .epoch_logs import EpochLogs
from .network_training import build_penalty, compile_model, trained, with_dropout

ANGLE = "gradient_angle"
# Sides of images, one of which every network takes.
_SIDES = (1, 2, 4, 8, 16, 32, 64, 128)


def settings(experiment: Experiment, options: Options) -> dict[str, Any]:
    """The settings on which the results of all cells depend, with the digests of given files.

    Raises:
        ArgumentError: A file is given that the experiment does not use.
        ModelError: A file cannot be read.
    """
    described = experiment.settings()
    for role, path in (("teacher", options.teacher), ("pretrained", options.pretrained)):
        if path is not None:
            if described[role] is None:
                raise ArgumentError(
                    f"--{role}: got {path!r}; expected none, because {experiment.name} uses none; "
                    "try without it."
                )
            described[role] = {"file": file_digest(path)}
    return described


def missing(experiment: Experiment, row: Row, options: Options) -> str | None:
    """The message about a file that a row needs and that is not given, or None."""
    for role, wanted in (("teacher", experiment.teacher), ("pretrained", experiment.pretrained)):
        needed = row.pretrained if role == "pretrained" else True
        if needed and wanted and not wanted.training and not getattr(options, role):
            return (
                f"--{role}: got none; expected a {wanted.network} trained on {wanted.dataset}, "
                f"which {experiment.name} at --scale={experiment.scale} needs; try "
                f"--{role}=FILE.keras."
            )
    return None


class StudentBench:
    """Data and trained networks of one experiment, loaded once and shared by its cells.

    Raises:
        ModelError: The teacher does not match the images or their classes.
    """

    def __init__(self, experiment: Experiment, work_dir: str, options: Options) -> None:
        self.experiment, self.work_dir, self.options = experiment, work_dir, options
        where = (experiment.dataset, experiment.image_size)
        self.train = options.load(*where, experiment.train_split)
        self.test = options.load(*where, experiment.test_split)
        self.classes = len(self.train.classes)
        self._check_size()
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
        """Accuracy on the whole test split, in inference mode."""
        if self._test_images is None:
            self._test_images = normalised(self.test, self.statistics)
        return accuracy(network, self._test_images, self.test.labels)

    def _learned(self, source: Source, path: str | None) -> Learned:
        if path is None:
            directory = os.path.join(self.work_dir, "teachers")
            path = trained(source, self.options.load, directory, self.options.jit_compile)
        learned = Learned(path)
        print(f"learning from {learned.path}: {learned}", flush=True)
        return learned

    def _check_size(self) -> None:
        """Check that every network that is built here takes the images, before any is trained."""
        sources = (self.experiment.teacher, self.experiment.pretrained)
        names = {row.student or self.experiment.student for row in self.experiment.rows}
        names |= {source.network for source in sources if source and source.training}
        for name in sorted(names):
            shape = self.train.image_shape
            if _takes(name, shape):
                continue
            side = next(s for s in _SIDES if _takes(name, (s, s, shape[-1])))
            raise ArgumentError(
                f"--image_size: got images {shape} of {self.train.name!r}; expected a height and "
                f"width of at least {side} for {name}; try --image_size={side},{side}."
            )

    def _check_teacher(self, network: keras.Model) -> None:
        expected = (None, *self.train.image_shape)
        if tuple(network.input_shape) != expected:
            raise ModelError(
                f"--teacher: got a network with inputs {tuple(network.input_shape)}; expected "
                f"{expected}, as the images of {self.train.name!r} are; try --image_size."
            )
        two_heads = any(row.two_heads for row in self.experiment.rows)
        if not two_heads and network.output_shape[-1] != self.classes:
            raise ModelError(
                f"--teacher: got a network of {network.output_shape[-1]} classes; expected "
                f"{self.classes}, as {self.train.name!r} has; try a teacher trained on that set."
            )


def _takes(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a network can be built for images of a shape."""
    try:
        models.get(name, shape, 2, width=0.01)
    except ArgumentError:
        return False
    return True


def run_cell(bench: StudentBench, cell: Cell) -> dict[str, Any]:
    """Train and test one student.

    Returns:
        Accuracy, seconds, the logs of every epoch, and angles if the experiment measures them; or
        the reason of a failed training.
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
    logs = EpochLogs()
    hooks: list[keras.callbacks.Callback] = [logs]
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
    result |= logs.record()
    if experiment.angle_every:
        result["angles"] = [[e["epoch"], e[ANGLE]] for e in logs.epochs if e.get(ANGLE)]
    if experiment.reduction_of and "failed" not in result:
        first, last = (logs.epochs[i][experiment.reduction_of] for i in (0, -1))
        result[REDUCTION] = 1 - last / first
    return result


def build_student(bench: StudentBench, row: Row, image_shape: tuple[int, ...]) -> keras.Model:
    """The network of a row, untrained or with pre-trained weights."""
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
    """Copy the weights of all layers but the logits.

    Raises:
        ModelError: The networks have different layers.
    """
    for layer in network.layers:
        if layer.weights and layer.name != "logits":
            try:
                layer.set_weights(trained.get_layer(layer.name).get_weights())
            except ValueError as error:
                raise ModelError(
                    f"--pretrained: got a network without a layer like {layer.name!r} of the "
                    f"student {network.name!r}; expected the same architecture and width; try a "
                    "network of that kind."
                ) from error


def penalized(
    bench: StudentBench, network: keras.Model, terms: Iterable[Term]
) -> tfgrad.PenalizedModel:
    """The student with its penalties, and with the teacher if there are both."""
    built = [build_penalty(term) for term in terms]
    if not built or bench.teacher is None:
        return tfgrad.PenalizedModel(network, built)
    return tfgrad.PenalizedModel(network, built, teacher=bench.teacher.network)
