"""Networks that are learned from: loaded, or trained once per work directory."""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

import tfgrad
from tfgrad import callbacks, data, evaluation, loading
from tfgrad.errors import DataError, ModelError, ResumeError

from ...common import work_directory
from ..schema import ACCURACY, Permuted, Source, Training, digest
from . import networks

_TEST_BATCH = 250

Statistics = tuple[np.ndarray, np.ndarray]


class Learned:
    """A trained network, its test accuracy if known, and the statistics its images need.

    Args:
        path: a .keras file, or a directory of apps.train.
        record: what is known of it; by default what is written beside the file.
    """

    def __init__(self, path: str, record: Mapping[str, Any] | None = None):
        self.path = os.path.join(path, "network.keras") if os.path.isdir(path) else path
        self.network = loading.load(self.path, compile=False)
        for beside in ("results.json", os.path.basename(self.path)[: -len(".keras")] + ".json"):
            record = record or work_directory.read_json(
                os.path.join(os.path.dirname(self.path), beside)
            )
        self.record = record if isinstance(record, Mapping) else {}
        tested = self.record.get("test", {})
        self.accuracy = self.record.get(ACCURACY, tested.get("val_accuracy"))

    def __str__(self):
        tested = "" if self.accuracy is None else f", test accuracy {self.accuracy:.2%}"
        return f"{self.network.name}, {self.network.count_params():,} parameters{tested}"

    def statistics(self, train: data.Dataset) -> Statistics | None:
        """(mean, std) of the images it was trained on, or of `train` if nobody wrote them down."""
        if "normalize" not in self.record:
            return data.channel_statistics(train)
        given = self.record["normalize"]
        return None if given is None else (_channels(given[0]), _channels(given[1]))


def file_digest(path: str) -> str:
    """Which network a file holds."""
    path = os.path.join(path, "network.keras") if os.path.isdir(path) else path
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}); expected a .keras file, or a directory "
            "of apps.train."
        ) from error


def trained(source: Source, load, directory: str, jit_compile: bool = False) -> str:
    """The file of a network, which is trained first if nobody has; others wait meanwhile.

    Args:
        source: the network, its data and its schedule.
        load: a function of data set, image size and split that returns a `data.Dataset`.
        directory: where the network is kept.
        jit_compile: whether to compile the step with XLA.

    Raises:
        ResumeError: the folder holds one of that name which was trained otherwise.
    """
    start = getattr(source, "start", None)
    started = trained(start, load, directory, jit_compile) if start else None
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, f"{source.name}.keras")
    described = {"seed": 0, **dataclasses.asdict(source)}
    with open(os.path.join(directory, f"{source.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(path):
            _check_source(path, described)
        else:
            _train(source, load, path, described, jit_compile, started)
    return path


def _train(source, load, path, described, jit_compile, started):
    where = (source.dataset, source.image_size)
    train, test = load(*where, source.train_split), load(*where, source.test_split)
    if isinstance(source, Permuted):
        train = evaluation.permuted_labels(train, source.permutation)
    statistics = None
    if getattr(source, "normalize", True):
        statistics = data.channel_statistics(train)
    print(f"training {source.name}: {source.training}", flush=True)
    start = time.perf_counter()
    seed = described["seed"]
    keras.utils.set_random_seed(seed)
    model = networks.build(source, train.image_shape, len(train.classes))
    network = model.network
    if started is not None:
        network.set_weights(loading.load(started, compile=False).get_weights())
    compile_model(model, source.training, len(train), jit_compile=jit_compile)
    base = path[: -len(".keras")]
    # Weights of other settings must not be taken for this network's.
    state = callbacks.Backup(f"{base}-{digest(described)[:8]}")
    done = state.restore(model)
    history = callbacks.JsonLines(f"{base}.history.jsonl", done)
    batch_size = source.training.batch_size
    model.fit(
        data.pipeline(
            train,
            batch_size,
            training=True,
            seed=seed,
            normalize=statistics,
            augment=source.training.augment,
            start_epoch=done,
        ),
        epochs=source.training.epochs,
        initial_epoch=done,
        steps_per_epoch=data.steps_per_epoch(train, batch_size),
        callbacks=[
            callbacks.StopOnNonFinite(state.kept),
            state,
            callbacks.TimeLeft(source.training.epochs),
            history,
            *kept_copies(source, network, base),
        ],
        shuffle=False,
        verbose=0,
    )
    record = {
        ACCURACY: accuracy(network, normalised(test, statistics), test.labels),
        "seconds": round(time.perf_counter() - start, 1),
        "normalize": statistics and [s.tolist() for s in statistics],
        "epochs": callbacks.read_json_lines(f"{base}.history.jsonl"),
        "declaration": described,
        "versions": work_directory.versions(),
    }
    network.save(f"{base}.unfinished.keras")
    work_directory.write_json(f"{base}.json", record)
    os.replace(f"{base}.unfinished.keras", path)
    os.remove(history.path)


def kept_copies(source: Source, network: keras.Model, base: str) -> list[keras.callbacks.Callback]:
    """What keeps BASE-epochN.keras of the epochs that a source names."""
    keep = getattr(source, "keep", ())

    def save(epoch, logs=None):
        if epoch + 1 in keep:
            network.save(f"{base}.unfinished.keras")
            os.replace(f"{base}.unfinished.keras", f"{base}-epoch{epoch + 1}.keras")

    return [keras.callbacks.LambdaCallback(on_epoch_end=save)] if keep else []


def _check_source(path: str, described: Mapping[str, Any]) -> None:
    record = work_directory.read_json(path[: -len(".keras")] + ".json")
    with contextlib.suppress(TypeError, KeyError):
        if record is not None and digest(record["declaration"]) == digest(described):
            return
    raise ResumeError(
        f"--work_dir: {path!r} was trained under other settings; remove it, or choose another "
        "--work_dir."
    )


def compile_model(
    model: tfgrad.PenalizedModel,
    schedule: Training,
    examples: int,
    supervised: float = 1.0,
    head: str | None = None,
    jit_compile: bool = False,
) -> None:
    """Compile with the cross-entropy, weighed, and the schedule in steps."""
    steps = -(-examples // schedule.batch_size)
    rate: Any = schedule.learning_rate
    if schedule.drops:
        rates = [rate * 0.1**i for i in range(len(schedule.drops) + 1)]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            [drop * steps for drop in schedule.drops], rates
        )
    if schedule.optimizer == "sgd":
        optimizer: keras.optimizers.Optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    else:
        optimizer = keras.optimizers.Adam(rate)
    loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    weight: Any = float(supervised)
    metrics: Any = ["accuracy"]
    if head is not None:
        loss, weight, metrics = {head: loss}, {head: weight}, {head: metrics}
    model.compile(optimizer, loss, metrics=metrics, loss_weights=weight, jit_compile=jit_compile)


def normalised(dataset: data.Dataset, statistics: Statistics | None) -> np.ndarray:
    """All images as one float array."""
    images = dataset.images.astype(np.float32)
    if dataset.images.dtype == np.uint8:
        images /= 255.0
    if statistics is not None:
        if statistics[0].shape != images.shape[-1:]:
            raise DataError(
                f"the teacher's images have {len(statistics[0])} channels; those of "
                f"{dataset.name!r} have {images.shape[-1]}."
            )
        images -= statistics[0]
        images /= statistics[1]
    return images


def accuracy(network: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of right answers in inference mode; of the head "target" if there are two."""
    logits = network.predict(images, batch_size=_TEST_BATCH, verbose=0)
    if isinstance(logits, Mapping):
        logits = logits["target"]
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def _channels(values) -> np.ndarray:
    return np.asarray(values, np.float32)
