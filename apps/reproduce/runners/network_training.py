"""Builds the networks that experiments declare, and trains each once per directory."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras

import tfgrad
from tfgrad import callbacks, data, evaluation, loading, models, penalties
from tfgrad.errors import ResumeError
from tfgrad.internal import files

from ...common import compilation, work_directory
from ...common.trained_networks import accuracy, normalised
from ..schema import ACCURACY, ExaminedNetwork, Permuted, Source, Term, Training, digest

# A function of data set, image size and split.
Load = Callable[[str, Any, str], data.Dataset]


def trained(source: Source, load: Load, directory: str, jit_compile: bool = False) -> str:
    """The file of a network, which is trained first unless it exists.

    Of several processes that need the same network, one trains it and the others wait.

    Args:
        source: Network, data and schedule.
        load: Function of data set, image size and split that returns a `data.Dataset`.
        directory: Directory in which the network is kept.
        jit_compile: Whether to compile the training step with XLA.

    Raises:
        ResumeError: The directory has a network of that name that was trained with other settings.
    """
    start = source.start if isinstance(source, ExaminedNetwork) else None
    started = trained(start, load, directory, jit_compile) if start else None
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, f"{source.name}.keras")
    described = {"seed": 0, **dataclasses.asdict(source)}
    with files.alone(directory, f"{source.name}.lock"):
        if os.path.exists(path):
            _check_source(path, described)
        else:
            _train(source, load, path, described, jit_compile, started)
    return path


def _train(
    source: Source,
    load: Load,
    path: str,
    described: Mapping[str, Any],
    jit_compile: bool,
    started: str | None,
) -> None:
    schedule = source.training
    assert schedule is not None
    where = (source.dataset, source.image_size)
    train, test = load(*where, source.train_split), load(*where, source.test_split)
    if isinstance(source, Permuted):
        train = evaluation.permuted_labels(train, source.permutation)
    statistics = None
    if not isinstance(source, ExaminedNetwork) or source.normalize:
        statistics = data.channel_statistics(train)
    print(f"training {source.name}: {schedule}", flush=True)
    start = time.perf_counter()
    seed = described["seed"]
    keras.utils.set_random_seed(seed)
    model = build(source, train.image_shape, len(train.classes))
    network = model.network
    if started is not None:
        network.set_weights(loading.load(started, compile=False).get_weights())
    compile_model(model, schedule, len(train), jit_compile=jit_compile)
    base = path.removesuffix(".keras")
    # The digest keeps weights of other settings from being restored.
    state = callbacks.Backup(f"{base}-{digest(described)[:8]}")
    done = state.restore(model)
    history = callbacks.JsonLines(f"{base}.history.jsonl", done)
    model.fit(
        data.pipeline(
            train,
            schedule.batch_size,
            training=True,
            seed=seed,
            normalize=statistics,
            augment=schedule.augment,
            start_epoch=done,
        ),
        epochs=schedule.epochs,
        initial_epoch=done,
        steps_per_epoch=data.steps_per_epoch(train, schedule.batch_size),
        callbacks=[
            callbacks.StopOnNonFinite(state.kept),
            state,
            callbacks.TimeLeft(schedule.epochs),
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
    files.write_json(f"{base}.json", record)
    # The network comes last: where it exists, its record does, too.
    _save(network, path)
    os.remove(history.path)


def kept_copies(source: Source, network: keras.Model, base: str) -> list[keras.callbacks.Callback]:
    """The callback that writes BASE-epochN.keras after the epochs to keep, if there are any."""
    keep = source.keep if isinstance(source, ExaminedNetwork) else ()

    def save(epoch: int, logs: Any = None) -> None:
        if epoch + 1 in keep:
            _save(network, f"{base}-epoch{epoch + 1}.keras")

    return [keras.callbacks.LambdaCallback(on_epoch_end=save)] if keep else []


def _save(network: keras.Model, path: str) -> None:
    files.write_model(path, network)


def _check_source(path: str, described: Mapping[str, Any]) -> None:
    record = work_directory.read_json(path.removesuffix(".keras") + ".json")
    with contextlib.suppress(TypeError, KeyError):
        if record is not None and digest(record["declaration"]) == digest(described):
            return
    raise ResumeError(
        f"--work_dir: got {path!r}, trained under other settings; expected the settings of this "
        "experiment; try another --work_dir or --networks_dir, or remove the file."
    )


def build(source: Source, image_shape: tuple[int, ...], classes: int) -> tfgrad.PenalizedModel:
    """The untrained network of a source, with its penalties."""
    if not isinstance(source, ExaminedNetwork):
        return tfgrad.PenalizedModel(
            models.get(source.network, image_shape, classes, width=source.width)
        )
    network = models.get(
        source.network, image_shape, classes, width=source.width, activation=source.activation
    )
    if source.dropout:
        pooling = [n.name for n in network.layers if isinstance(n, keras.layers.MaxPooling2D)]
        network = with_dropout(network, pooling, source.dropout)
    if source.weight_decay:
        for layer in network.layers:
            if hasattr(layer, "kernel"):
                layer.kernel.regularizer = keras.regularizers.L2(source.weight_decay)
    return tfgrad.PenalizedModel(network, [build_penalty(term) for term in source.terms])


def with_dropout(network: keras.Model, layers: Collection[str], rate: float) -> keras.Model:
    """A copy with the same weights, and dropout right after some layers."""

    def call(original: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        if original.name in layers:
            outputs = keras.layers.Dropout(rate, name=f"{original.name}_dropout")(outputs)
        return outputs

    copy = keras.models.clone_model(network, call_function=call)
    copy.set_weights(network.get_weights())
    return copy


def build_penalty(term: Term) -> penalties.Penalty:
    """The penalty that a term declares."""
    options = dict(term.options)
    if "layers" in options:
        options["layers"] = [
            layer if isinstance(layer, str) else tuple(layer) for layer in options["layers"]
        ]
    return getattr(penalties, term.penalty)(term.weight, **options)


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
