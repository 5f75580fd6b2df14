"""Networks that are learned from: loaded, or trained once per work directory."""

import contextlib
import dataclasses
import fcntl
import os
import time
from collections.abc import Mapping
from typing import Any

import keras

import tfgrad
from tfgrad import callbacks, data, evaluation, loading
from tfgrad.errors import ResumeError
from tfgrad.internal import files

from ...common import compilation, work_directory
from ...common.trained_networks import accuracy, normalised
from ..schema import ACCURACY, Permuted, Source, Training, digest
from . import networks


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
    files.write_json(f"{base}.json", record)
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
    """Compile with the weighted cross-entropy, and the schedule in steps."""
    steps = -(-examples // schedule.batch_size)
    optimizer = compilation.optimizer(
        schedule.optimizer, schedule.learning_rate, schedule.drops, steps
    )
    compilation.compile_classifier(model, optimizer, jit_compile, supervised, head)
