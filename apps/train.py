"""Train a classifier with penalties on its gradients.

    python -m apps.train --gradient_norm=0.1 --work_dir=runs/digits
    python -m apps.train --dataset=cifar10 --data_dir=DIR --network=vgg9 --width=0.25 \\
        --normalize --augment --gradient_norm=0.1 --epochs=15 --work_dir=runs/cifar

The work directory receives run.json (flags, versions), history.jsonl (a line an epoch), TensorBoard
summaries, the state of the last finished epoch, and at the end network.keras (the plain network),
model.keras (with penalties and optimizer; load it to train on), results.json, noise.md and
history.png. The same command run again after a kill goes on from the last finished epoch and
reaches the weights of an uninterrupted run.

Several workers: start the same command once per worker with --strategy=multi_worker and TF_CONFIG
set; worker n > 0 writes to WORK_DIR/worker-n.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 a loss that is not finite.
"""

from apps import entry, settings

# isort: split
import os

import keras
from absl import flags

from apps import runs
from tfgrad import callbacks, data, distribution, evaluation, figures

FLAGS = flags.FLAGS


def define_flags():
    """All flags of this app."""
    settings.define_data()
    settings.define_network()
    settings.define_penalties()
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
    flags.DEFINE_string("work_dir", "runs/train", "Where everything is written.")
    flags.DEFINE_bool("resume", True, "Go on with the run in --work_dir, if there is one.")
    flags.DEFINE_enum("progress", "epoch", ("epoch", "batch", "none"), "How much to print.")


def main():
    """Train, test, save."""
    settings.numbers("noise", float)  # A typing error must not wait for the end of training.
    strategy = distribution.strategy(FLAGS.strategy, FLAGS.devices)
    directory = _directory(strategy)
    runs.open_directory(directory, settings.resolved(), FLAGS.resume)
    results = runs.read_json(os.path.join(directory, "results.json"))
    if results is not None:
        print(f"this run is complete; results in {directory}")
        return results
    keras.utils.set_random_seed(FLAGS.seed)
    keras.config.set_dtype_policy(FLAGS.dtype_policy)
    train, test, statistics = settings.load_data()
    with strategy.scope():
        model = settings.compiled_model(
            _regularised(settings.build_network(train)),
            settings.build_penalties(),
            _optimizer(data.steps_per_epoch(train, FLAGS.batch_size)),
            jit_compile=FLAGS.jit_compile,
        )
    print(
        f"{len(train)} training and {len(test)} test images {train.image_shape}, "
        f"{len(train.classes)} classes; {FLAGS.network} with {model.network.count_params():,} "
        f"parameters; {strategy.num_replicas_in_sync} replica(s)",
        flush=True,
    )
    history = _fit(model, strategy, directory, train, test, statistics)
    return _report(model, directory, history, test, statistics)


def _directory(strategy):
    """The work directory of this process."""
    worker = getattr(strategy.cluster_resolver, "task_id", 0) if strategy.cluster_resolver else 0
    return os.path.join(FLAGS.work_dir, f"worker-{worker}") if worker else FLAGS.work_dir


def _regularised(network):
    if FLAGS.weight_decay:
        for layer in network.layers:
            if hasattr(layer, "kernel_regularizer"):
                layer.kernel_regularizer = keras.regularizers.L2(FLAGS.weight_decay)
                layer.kernel.regularizer = layer.kernel_regularizer
    return network


def _optimizer(steps):
    rate = FLAGS.learning_rate
    if FLAGS.decay_epochs:
        epochs = sorted(settings.numbers("decay_epochs", int))
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            [e * steps for e in epochs], [rate * 0.1**i for i in range(len(epochs) + 1)]
        )
    if FLAGS.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9)
    return keras.optimizers.Adam(rate)


def _fit(model, strategy, directory, train, test, statistics):
    backup = callbacks.Backup(os.path.join(directory, "state"))
    with strategy.scope():
        done = backup.restore(model)
    if done:
        print(f"going on after epoch {done}", flush=True)
    common = {"normalize": statistics}
    batches = distribution.local_slices(
        strategy,
        lambda index, count: data.pipeline(
            train,
            FLAGS.batch_size,
            training=True,
            seed=FLAGS.seed,
            augment=FLAGS.augment,
            start_epoch=done,
            shard=(index, count),
            **common,
        ),
    )
    validation = distribution.local_slices(
        strategy,
        lambda index, count: data.pipeline(
            test, FLAGS.batch_size, training=False, shard=(index, count), **common
        ),
    )
    record = os.path.join(directory, "history.jsonl")
    hooks = [
        callbacks.StopOnNonFinite(backup.kept),
        # The line first: a kill between the two then repeats the epoch, and replaces its line.
        callbacks.JsonLines(record, done),
        backup,
        keras.callbacks.TensorBoard(
            os.path.join(directory, "tensorboard"), write_graph=False, profile_batch=0
        ),
    ]
    if FLAGS.progress != "none":
        hooks.append(callbacks.TimeLeft(FLAGS.epochs))
    model.fit(
        batches,
        epochs=FLAGS.epochs,
        initial_epoch=done,
        steps_per_epoch=data.steps_per_epoch(train, FLAGS.batch_size),
        validation_data=validation,
        validation_steps=data.steps_per_epoch(test, FLAGS.batch_size),
        callbacks=hooks,
        shuffle=False,  # The stream is shuffled as a function of seed and epoch.
        verbose=1 if FLAGS.progress == "batch" else 0,
    )
    return callbacks.read_json_lines(record)


def _report(model, directory, history, test, statistics):
    """Test under noise, then write the networks, the tables and the pictures."""
    model.save(os.path.join(directory, "unfinished.keras"))
    os.replace(os.path.join(directory, "unfinished.keras"), os.path.join(directory, "model.keras"))
    model.network.save(os.path.join(directory, "unfinished.keras"))
    os.replace(
        os.path.join(directory, "unfinished.keras"), os.path.join(directory, "network.keras")
    )
    batches = data.pipeline(test, 256, training=False, normalize=statistics)
    robustness = evaluation.noise_robustness(
        model.network, batches, settings.numbers("noise", float), seed=FLAGS.seed
    )
    table = evaluation.NoiseRobustness.markdown({_label(): robustness})
    results = {
        "label": _label(),
        "test": {k: v for k, v in history[-1].items() if k.startswith("val_")},
        "noise": [
            {"sigma": s, "accuracy": mean, "deviation": deviation}
            for s, (mean, deviation) in robustness.accuracy.items()
        ],
        "seconds": sum(line["seconds"] for line in history),
        "classes": list(test.classes),
        "input_shape": list(test.image_shape),
        "normalize": None if statistics is None else [s.tolist() for s in statistics],
        "versions": runs.versions(),
    }
    runs.write_text(os.path.join(directory, "noise.md"), table + "\n")
    figures.history(
        os.path.join(directory, "history.png"),
        {k: [line[k] for line in history] for k in ("accuracy", "val_accuracy")},
        y_label="accuracy",
        title=_label(),
    )
    runs.write_json(os.path.join(directory, "results.json"), results)
    print(f"\ntest accuracy (%) under input noise\n{table}\n\nwritten to {directory}")
    return results


def _label():
    """What distinguishes this run in a table."""
    parts = [
        f"{name.replace('_', ' ')} {value:g}"
        for name in ("gradient_norm", "score_matching", "anti_score_matching", "weight_decay")
        if (value := getattr(FLAGS, name))
    ]
    return ", ".join(parts) or "plain"


if __name__ == "__main__":
    define_flags()
    entry.run(main)
