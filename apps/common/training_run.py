"""A run: flags of training, the work directory, an exact resume, and the report at the end.

What apps.train, apps.distill and apps.transfer have in common.
"""

import dataclasses
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tfgrad import callbacks, data, distribution, evaluation, figures
from tfgrad.internal import files
from tfgrad.penalties.teacher import Lesson

from . import compilation, shared_flags, work_directory

FLAGS = flags.FLAGS

MAX_LESSONS = 4 << 30  # bytes
PLAIN = "plain"


def define_flags(work_dir):
    """How to train, and where to."""
    flags.DEFINE_enum("optimizer", "adam", ("adam", "sgd"), "Optimizer; sgd has momentum .9.")
    flags.DEFINE_float("learning_rate", 1e-3, "Initial learning rate.", lower_bound=0)
    flags.DEFINE_list("decay_epochs", [], "Epochs after which the learning rate drops tenfold.")
    flags.DEFINE_float("weight_decay", 0.0, "Weight of (l2) kernel regularisation.", lower_bound=0)
    flags.DEFINE_integer("epochs", 10, "Passes over the training set.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 64, "Examples per step, over all replicas.", lower_bound=1)
    flags.DEFINE_integer(
        "seed",
        0,
        "Of weights, order, augmentation and draws.",
        lower_bound=0,
        upper_bound=2**32 - 1,
    )
    flags.DEFINE_enum("strategy", "one_device", distribution.NAMES, "How to distribute.")
    flags.DEFINE_integer(
        "devices", None, "Devices of --strategy=mirrored; default: all GPUs, or two logical CPUs."
    )
    flags.DEFINE_enum(
        "dtype_policy",
        "float32",
        ("float32", "mixed_float16", "mixed_bfloat16"),
        "Keras dtype policy.",
    )
    flags.DEFINE_bool("jit_compile", False, "Compile the step with XLA.")
    flags.DEFINE_list(
        "noise", ["0", "0.1", "0.2", "0.3", "0.4"], "Noise levels at which the result is tested."
    )
    flags.DEFINE_string("work_dir", work_dir, "Where everything is written.")
    flags.DEFINE_bool("resume", True, "Go on with the run in --work_dir, if there is one.")
    flags.DEFINE_enum("progress", "epoch", ("epoch", "batch", "none"), "How much to print.")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: where, for how long, and what is done to the images.

    Attributes:
        strategy: of tf.distribute.
        directory: the work directory of this process.
        epochs: passes over the training set.
        batch_size: examples per step, over all replicas.
        augment: see `data.pipeline`.
        statistics: (mean, std) of the channels, or None.
        head: the output that has labels, of a network with several.
    """

    strategy: Any
    directory: str
    epochs: int
    batch_size: int
    augment: bool | str
    statistics: Any = None
    head: str | None = None

    @property
    def results(self):
        """Of this run, if it is complete."""
        return work_directory.read_json(os.path.join(self.directory, "results.json"))

    def path(self, name):
        """Of a file in the work directory."""
        return os.path.join(self.directory, name)

    def with_labels(self, y):
        """Labels as the model takes them."""
        return y if self.head is None else {self.head: y}


def begin(described=None):
    """Check flags, open --work_dir, seed everything.

    Args:
        described: {name: value} of what the run depends on, beside its flags.

    Returns:
        A `Run`; if it has `results` there is nothing left to do.
    """
    shared_flags.numbers("noise", float)  # A typing error must not wait for the end of training.
    strategy = distribution.strategy(FLAGS.strategy, FLAGS.devices)
    worker = getattr(strategy.cluster_resolver, "task_id", 0) if strategy.cluster_resolver else 0
    directory = os.path.join(FLAGS.work_dir, f"worker-{worker}") if worker else FLAGS.work_dir
    work_directory.open_directory(
        directory, shared_flags.resolved() | (described or {}), FLAGS.resume
    )
    run = Run(strategy, directory, FLAGS.epochs, FLAGS.batch_size, shared_flags.augmentation())
    if run.results is not None:
        print(f"this run is complete; results in {directory}")
        return run
    keras.utils.set_random_seed(FLAGS.seed)
    keras.config.set_dtype_policy(FLAGS.dtype_policy)
    return run


def regularised(network):
    """The network with --weight_decay on its kernels."""
    if FLAGS.weight_decay:
        for layer in network.layers:
            if hasattr(layer, "kernel_regularizer"):
                layer.kernel_regularizer = keras.regularizers.L2(FLAGS.weight_decay)
                layer.kernel.regularizer = layer.kernel_regularizer
    return network


def optimizer(run, train):
    """The optimizer that the flags describe."""
    return compilation.optimizer(
        FLAGS.optimizer,
        FLAGS.learning_rate,
        sorted(shared_flags.numbers("decay_epochs", int)),
        data.steps_per_epoch(train, run.batch_size),
    )


def introduce(run, model, train, test):
    """Say what is trained on what."""
    network = model.network
    print(
        f"{len(train)} training and {len(test)} test images {train.image_shape}, "
        f"{len(train.classes)} classes; {network.name} with {network.count_params():,} "
        f"parameters; {run.strategy.num_replicas_in_sync} replica(s)",
        flush=True,
    )


def fit(run, model, train, test, record=False, hooks=()):
    """Train to the last epoch, from the last finished one on.

    Args:
        run: the `Run`.
        model: a compiled PenalizedModel.
        train: a `data.Dataset`.
        test: another, for validation.
        record: whether to ask a teacher once per image instead of once per step.
        hooks: callbacks that come before those that read the logs.

    Returns:
        The logs of all epochs, those before a resume included.
    """
    backup = callbacks.Backup(run.path("state"))
    with run.strategy.scope():
        done = backup.restore(model)
    if done:
        print(f"going on after epoch {done}", flush=True)
    source, labelled = train, lambda x, y: (x, run.with_labels(y))
    if record and done < run.epochs:
        source, labelled = _lessons(run, model, train) or (source, labelled)
    batches = _stream(
        run,
        source,
        labelled,
        training=True,
        seed=FLAGS.seed,
        augment=run.augment,
        start_epoch=done,
    )
    validation = _stream(run, test, lambda x, y: (x, run.with_labels(y)), training=False)
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
        hooks.append(callbacks.TimeLeft(run.epochs))
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


def images(run, dataset):
    """All images of a data set as the network takes them, one pass in stored order."""
    return data.pipeline(dataset, 256, training=False, normalize=run.statistics)


def _stream(run, dataset, labelled, **options):
    def of_replica(index, count):
        one = data.pipeline(
            dataset, run.batch_size, normalize=run.statistics, shard=(index, count), **options
        )
        return one.map(labelled)

    return distribution.local_slices(run.strategy, of_replica)


def _lessons(run, model, train):
    """A data set whose labels are positions, and what makes lessons and labels of them.

    None if the answers would not fit into memory.
    """
    x, y = np.concatenate([x for x, _ in images(run, train)]), run.with_labels(train.labels)
    one = model.lessons(x[:1], tf.nest.map_structure(lambda labels: labels[:1], y)).taught
    size = len(train) * sum(part.nbytes for part in tf.nest.flatten(one))
    if size > MAX_LESSONS:
        print(f"the teacher runs in every step: its answers would take {size / 2**30:.0f} GiB")
        return None
    with tf.device("CPU:0"):  # Eager tensors are passed on by reference, as are those of `train`.
        taught = tf.nest.map_structure(tf.convert_to_tensor, model.lessons(x, y).taught)
    print(f"the teacher's answers are recorded once, {size / 2**20:.1f} MiB", flush=True)
    labels = train.tensors[1]

    def lesson(x, index):
        answers = tf.nest.map_structure(lambda part: tf.gather(part, index), taught)
        return Lesson(x, answers), run.with_labels(tf.gather(labels, index))

    return data.from_arrays(train.images, np.arange(len(train)), name=train.name), lesson


def report(run, model, network, history, test, label, **more):
    """Test under noise, then write the networks, the tables and the pictures.

    Args:
        run: the `Run`.
        model: what was trained.
        network: the plain classifier in it.
        history: what `fit` returned.
        test: a `data.Dataset`.
        label: what distinguishes this run in a table.
        more: further entries of results.json.

    Returns:
        The results.
    """
    for trained, name in ((model, "model.keras"), (network, "network.keras")):
        with files.replaced(run.path(name), ".keras") as unfinished:
            trained.save(unfinished)
    robustness = evaluation.noise_robustness(
        network, images(run, test), shared_flags.numbers("noise", float), seed=FLAGS.seed
    )
    table = evaluation.Measurement.markdown({label: robustness})
    results = {
        "label": label,
        "test": {k: v for k, v in history[-1].items() if k.startswith("val_")},
        "noise": [
            {"sigma": s, "accuracy": mean, "deviation": deviation}
            for s, (mean, deviation) in robustness.curve().items()
        ],
        "seconds": sum(line["seconds"] for line in history),
        "classes": list(test.classes),
        "input_shape": list(test.image_shape),
        "normalize": None if run.statistics is None else [s.tolist() for s in run.statistics],
        **more,
        "versions": work_directory.versions(),
    }
    files.write_text(run.path("noise.md"), table + "\n")
    figures.history(
        run.path("history.png"),
        {k: [line[k] for line in history] for k in ("accuracy", "val_accuracy")},
        y_label="accuracy",
        title=label,
    )
    files.write_json(run.path("results.json"), results)
    print(f"\ntest accuracy (%) under input noise\n{table}\n\nwritten to {run.directory}")
    return results


def label(*names):
    """What distinguishes this run in a table: its flags of these names that are not 0."""
    parts = [f"{n.replace('_', ' ')} {value:g}" for n in names if (value := getattr(FLAGS, n))]
    return ", ".join(parts) or PLAIN
