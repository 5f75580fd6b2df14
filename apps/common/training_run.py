"""A training run: its flags, its work directory, and training that resumes exactly.

Shared by the commands that train a network: train, distill, transfer and fool.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import tfgrad
from tfgrad import callbacks, data, distribution
from tfgrad.internal.keras_private import flatten_layers

from . import compilation, penalty_share, recorded_lessons, shared_flags, work_directory
from .trained_networks import Statistics

FLAGS = flags.FLAGS


def define_flags(work_dir: str) -> None:
    """Define how to train, and where results are written."""
    flags.DEFINE_enum("optimizer", "adam", ("adam", "sgd"), "Optimizer; sgd has momentum 0.9.")
    flags.DEFINE_float("learning_rate", 1e-3, "Initial learning rate.", lower_bound=0)
    flags.DEFINE_list("decay_epochs", [], "Epochs after which the learning rate drops tenfold.")
    flags.DEFINE_float("weight_decay", 0.0, "Weight of L2 regularisation of kernels.", 0)
    flags.DEFINE_integer("epochs", 10, "Passes over the training set.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 64, "Examples per step, over all replicas.", lower_bound=1)
    flags.DEFINE_integer(
        "seed",
        0,
        "Seed of weights, order, augmentation and noise.",
        lower_bound=0,
        upper_bound=2**32 - 1,
    )
    flags.DEFINE_enum("strategy", "one_device", distribution.NAMES, "Distribution strategy.")
    flags.DEFINE_integer(
        "devices",
        None,
        "Number of devices of --strategy=mirrored; default: all GPUs, or two logical CPUs.",
    )
    flags.DEFINE_enum(
        "dtype_policy",
        "float32",
        ("float32", "mixed_float16", "mixed_bfloat16"),
        "Keras dtype policy.",
    )
    flags.DEFINE_bool(
        "jit_compile",
        False,
        "Compile the step with XLA. Penalties then reject Keras's max-pooling, as in vgg.",
    )
    flags.DEFINE_list(
        "noise",
        ["0", "0.1", "0.2", "0.3", "0.4"],
        "Standard deviations of the input noise under which the result is tested.",
    )
    flags.DEFINE_string("work_dir", work_dir, "Directory that everything is written to.")
    flags.DEFINE_bool("resume", True, "Resume the run in --work_dir, if there is one.")
    flags.DEFINE_enum("progress", "epoch", ("epoch", "batch", "none"), "How often to print.")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: where, for how long, and what is done to the images.

    Attributes:
        strategy: Strategy of tf.distribute.
        directory: Work directory of this process.
        epochs: Passes over the training set.
        batch_size: Examples per step, over all replicas.
        augment: Augmentation, as `data.pipeline` takes it.
        statistics: (mean, std) of the channels, or None.
        head: Output that has labels, of a network with several.
    """

    strategy: Any
    directory: str
    epochs: int
    batch_size: int
    augment: bool | str
    statistics: Statistics | None = None
    head: str | None = None

    @property
    def results(self) -> dict[str, Any] | None:
        """The results of this run, if it is complete."""
        return work_directory.read_json(os.path.join(self.directory, "results.json"))

    def path(self, name: str) -> str:
        """The path of a file in the work directory."""
        return os.path.join(self.directory, name)

    def with_labels(self, y: Any) -> Any:
        """Labels as the model takes them."""
        return y if self.head is None else {self.head: y}

    def images(self, dataset: data.Dataset) -> tf.data.Dataset:
        """All images of a data set as the network takes them, one pass in stored order."""
        return data.pipeline(dataset, 256, training=False, normalize=self.statistics)


def begin(
    described: Mapping[str, Any] | None = None, check: Callable[[], object] | None = None
) -> Run:
    """Check the flags and the data set, open --work_dir, and set all seeds.

    Args:
        described: {name: value} of what the run depends on in addition to its flags.
        check: Function that checks further flags, before anything is written. It is called once
            the strategy exists, which some strategies need before the first operation.

    Returns:
        A `Run`; if it has `results`, nothing is left to do.
    """
    shared_flags.numbers("noise", float)  # A typing error must not wait for the end of training.
    shared_flags.numbers("decay_epochs", int)
    strategy = distribution.strategy(FLAGS.strategy, FLAGS.devices)
    worker = getattr(strategy.cluster_resolver, "task_id", 0) if strategy.cluster_resolver else 0
    directory = os.path.join(FLAGS.work_dir, f"worker-{worker}") if worker else FLAGS.work_dir
    if check is not None:
        check()
    complete = os.path.exists(os.path.join(directory, "results.json"))
    if not (complete and FLAGS.resume):  # A complete run is told without its images.
        shared_flags.check_dataset()
    work_directory.open_directory(
        directory,
        {**shared_flags.resolved(), **shared_flags.images_digest(), **(described or {})},
        FLAGS.resume,
    )
    run = Run(strategy, directory, FLAGS.epochs, FLAGS.batch_size, shared_flags.augmentation())
    if run.results is not None:
        print(f"this run is complete; results in {directory}")
        return run
    keras.utils.set_random_seed(FLAGS.seed)
    keras.config.set_dtype_policy(FLAGS.dtype_policy)
    return run


def regularised(network: keras.Model) -> keras.Model:
    """The network with --weight_decay on the kernels that are trained."""
    if FLAGS.weight_decay:
        for layer in flatten_layers(network):
            if hasattr(layer, "kernel_regularizer") and layer.trainable:
                layer.kernel_regularizer = keras.regularizers.L2(FLAGS.weight_decay)
                layer.kernel.regularizer = layer.kernel_regularizer
    return network


def optimizer(run: Run, train: data.Dataset) -> keras.optimizers.Optimizer:
    """The optimizer and the schedule that flags name."""
    return compilation.optimizer(
        FLAGS.optimizer,
        FLAGS.learning_rate,
        sorted(shared_flags.numbers("decay_epochs", int)),
        data.steps_per_epoch(train, run.batch_size),
    )


def introduce(
    run: Run, model: tfgrad.PenalizedModel, train: data.Dataset, test: data.Dataset
) -> None:
    """Print which network is trained on which images."""
    network = model.network
    print(
        f"{len(train)} training and {len(test)} test images {train.image_shape}, "
        f"{len(train.classes)} classes; {network.name} with {network.count_params():,} "
        f"parameters; {run.strategy.num_replicas_in_sync} replica(s)",
        flush=True,
    )


def fit(
    run: Run,
    model: tfgrad.PenalizedModel,
    train: data.Dataset,
    test: data.Dataset,
    record: bool = False,
    hooks: Sequence[keras.callbacks.Callback] = (),
) -> list[dict[str, Any]]:
    """Train to the last epoch, from the last finished one on.

    Args:
        run: The run.
        model: Compiled model.
        train: Training set.
        test: Test set, for validation.
        record: Whether the teacher is evaluated once per image instead of once per step.
        hooks: Callbacks that come before those that read the logs.

    Returns:
        The logs of all epochs, those before a resume included.
    """
    backup = callbacks.Backup(run.path("state"))
    with run.strategy.scope():
        done = backup.restore(model)
    if done:
        print(f"going on after epoch {done}", flush=True)

    def labelled(x: Any, y: Any) -> tuple[Any, Any]:
        return x, run.with_labels(y)

    source = train
    mapped: Callable[[Any, Any], tuple[Any, Any]] = labelled
    if record and done < run.epochs:
        images = np.concatenate([x for x, _ in run.images(train)])
        lessons = recorded_lessons.recorded(model, train, images, run.with_labels)
        source, mapped = lessons or (source, mapped)
    batches = _stream(
        run,
        source,
        mapped,
        training=True,
        seed=FLAGS.seed,
        augment=run.augment,
        start_epoch=done,
    )
    validation = _stream(run, test, labelled, training=False)
    history = run.path("history.jsonl")
    hooks = [
        callbacks.StopOnNonFinite(backup.kept),
        *hooks,
        # The line first: a kill between the two then repeats the epoch, and replaces its line.
        callbacks.JsonLines(history, done),
        backup,
        keras.callbacks.TensorBoard(run.path("tensorboard"), write_graph=False, profile_batch=0),
    ]
    if FLAGS.progress != "none":
        live = FLAGS.progress == "epoch"  # Keras draws its own bar of batches.
        hooks.append(callbacks.TimeLeft(run.epochs, len(train), live))
        weighted = [one for one in model.penalties if one.name in shared_flags.PENALTIES]
        hooks.append(penalty_share.PenaltyShare(weighted))
    model.fit(
        batches,
        epochs=run.epochs,
        initial_epoch=done,
        steps_per_epoch=data.steps_per_epoch(train, run.batch_size),
        validation_data=validation,
        validation_steps=data.steps_per_epoch(test, run.batch_size),
        callbacks=hooks,
        shuffle=False,  # The stream is shuffled as a function of seed and epoch.
        verbose=1 if FLAGS.progress == "batch" else 0,
    )
    return callbacks.read_json_lines(history)


def _stream(run: Run, dataset: data.Dataset, mapped: Any, **options: Any) -> Any:
    def of_replica(index: int, count: int) -> tf.data.Dataset:
        one = data.pipeline(
            dataset, run.batch_size, normalize=run.statistics, shard=(index, count), **options
        )
        return one.map(mapped)

    return distribution.local_slices(run.strategy, of_replica)
