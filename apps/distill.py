"""Train a student that matches a teacher: its logits, their gradients, its attention.

    python -m apps.distill --teacher=vgg9 --teacher_epochs=15 --dataset=cifar10 --per_class=50 \\
        --normalize --epochs=100 --match_activations=10 --match_jacobian=10 --work_dir=runs/student
    python -m apps.distill --teacher=runs/student/teacher --dataset=cifar10 --per_class=50 \\
        --match_activations=10 --match_jacobian=10 --match_bias_gradients=10 --match_attention=10 \\
        --layers=act1,act2,act3:act4 --angle_every=5 --epochs=100 --work_dir=runs/full_gradients

The teacher is a .keras or .h5 file of a classifier of the same classes; a work directory
of apps.train; or the name of an architecture, which is then trained first, on the whole training
split whatever --per_class is: Adam at 1e-3, a tenth of it for the last fifth of --teacher_epochs,
--normalize, --teacher_augment. It has its own work directory, WORK_DIR/teacher, which can be
resumed, explained and given as --teacher to other students.

The images are normalised as the teacher's were, if there is a results.json beside it.

Without augmentation and on one device, the teacher runs once per image and its outputs are kept in
memory; otherwise, and with --live_teacher, it runs in every step.

The work directory receives what apps.train writes: run.json (flags, versions), history.jsonl (a
line an epoch), TensorBoard summaries, the state of the last finished epoch, and at the end
network.keras (the plain student), model.keras (with penalties, teacher and optimizer),
results.json, noise.md and history.png. An interrupted run resumes from its last finished epoch when
the same command is run again, and reaches the weights of an uninterrupted run.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 a loss that is not finite, 73 a directory
that another process uses, 74 a full disk, 75 a lost worker.
"""

from .common import command, invocation, shared_flags

# isort: split
import dataclasses
import os
from typing import Any

import keras
from absl import flags

import tfgrad
from tfgrad import callbacks, data, models
from tfgrad.errors import ArgumentError, ModelError

from .common import compilation, run_report, teacher_flags, training_run, work_directory
from .common.trained_networks import file_digest, image_size
from .common.training_run import Run

FLAGS = flags.FLAGS
ANGLE = "gradient_angle"
TEACHER_BATCH = 64


def define_flags() -> None:
    """Define all flags of this command."""
    flags.DEFINE_string(
        "teacher",
        None,
        f"A .keras file, a work directory of {invocation.named('train')}, or {_names()}.",
    )
    flags.DEFINE_float("teacher_width", 1.0, "Channel multiplier of a named teacher.", 0)
    flags.DEFINE_integer(
        "teacher_epochs", 15, "Passes of a named teacher over the training split.", lower_bound=1
    )
    flags.DEFINE_bool(
        "teacher_augment", False, "Train a named teacher on random flips and padded crops."
    )
    flags.DEFINE_integer(
        "angle_every",
        None,
        "Epochs between measurements of the angle between the teacher's and the student's "
        "input-gradients on the training set; default: never.",
        lower_bound=1,
    )
    shared_flags.define_data()
    shared_flags.define_network()
    teacher_flags.define_matching(
        {name: 1.0 if name == "match_activations" else 0.0 for name in teacher_flags.WEIGHTS}
    )
    teacher_flags.define_logit_matching()
    shared_flags.define_penalties()
    training_run.define_flags("runs/student")
    flags.adopt_module_key_flags(teacher_flags)
    flags.adopt_module_key_flags(training_run)


def main() -> dict[str, Any]:
    """Find or train the teacher, train the student, test and save."""
    if not FLAGS.teacher:
        raise ArgumentError(f"--teacher: got none; expected a file, a directory or {_names()}.")
    teacher_flags.check_flags()
    named = FLAGS.teacher in models.NAMES
    described = None if named else {"teacher_digest": file_digest(FLAGS.teacher)}
    run = training_run.begin(described, shared_flags.build_penalties)
    if run.results is not None:
        return run.results
    whole, test = shared_flags.load_splits(None if named else lambda: image_size(FLAGS.teacher))
    train = shared_flags.chosen_from(whole)
    path = _taught(run, train, whole, test) if named else FLAGS.teacher
    with run.strategy.scope():
        learned = teacher_flags.load(path)
    run = dataclasses.replace(run, statistics=teacher_flags.statistics(learned, train))
    model = _student(run, learned.network, train)
    training_run.introduce(run, model, train, test)
    history = training_run.fit(
        run, model, train, test, teacher_flags.recorded(), _angles(run, learned.network, train)
    )
    more = {"teacher": {"path": learned.path, "accuracy": learned.accuracy}}
    if FLAGS.angle_every:
        more[ANGLE] = history[-1][ANGLE]
    return run_report.write(run, model, model.network, history, test, teacher_flags.label(), **more)


def _names() -> str:
    return f"one of {', '.join(models.NAMES)}"


def _student(
    run: Run, teacher: keras.Model, train: data.Dataset, verbose: bool = True
) -> tfgrad.PenalizedModel:
    """The student's compiled model."""
    classes = teacher_flags.check_teacher(teacher, train)
    if classes != len(train.classes):
        raise ModelError(
            f"--teacher: got one of {classes} classes; expected {len(train.classes)}, those of "
            f"{train.name!r}; try {invocation.named('transfer')}, which takes a teacher of other "
            "classes."
        )
    # The same first weights whether or not a teacher was trained before.
    keras.utils.set_random_seed(FLAGS.seed)
    with run.strategy.scope():
        network = training_run.regularised(shared_flags.build_network(train))
        matched = teacher_flags.build(network, teacher, train, verbose=verbose)
        return compilation.compiled_model(
            network,
            [*matched, *shared_flags.build_penalties()],
            training_run.optimizer(run, train),
            FLAGS.jit_compile,
            teacher,
            FLAGS.supervised,
        )


def _taught(run: Run, train: data.Dataset, whole: data.Dataset, test: data.Dataset) -> str:
    """The work directory of a teacher, which is trained if it does not exist."""
    directory = os.path.join(run.directory, "teacher")
    run = dataclasses.replace(
        run,
        directory=directory,
        epochs=FLAGS.teacher_epochs,
        batch_size=TEACHER_BATCH,
        augment=FLAGS.teacher_augment,
        statistics=shared_flags.statistics_of(whole),
    )
    if run.results is not None:
        return directory
    with run.strategy.scope():
        network = models.get(
            FLAGS.teacher, whole.image_shape, len(whole.classes), FLAGS.teacher_width
        )
        # Errors of the student must not wait for the end of the teacher's training.
        _student(run, network, train, verbose=False)
        steps = data.steps_per_epoch(whole, run.batch_size)
        optimizer = compilation.optimizer("adam", 1e-3, [round(0.8 * run.epochs)], steps)
        model = compilation.compiled_model(network, [], optimizer, FLAGS.jit_compile)
    work_directory.open_directory(directory, _described(), resume=True)
    print(f"first the teacher, in {directory}")
    training_run.introduce(run, model, whole, test)
    history = training_run.fit(run, model, whole, test)
    run_report.write(run, model, network, history, test, f"teacher {FLAGS.teacher}")
    return directory


def _described() -> dict[str, Any]:
    """What a named teacher depends on, by the names of the flags that train has for it."""
    shared = ("dataset", "image_size", "train_split", "test_split", "normalize", "seed", "noise")
    return {name: getattr(FLAGS, name) for name in (*shared, "dtype_policy", "strategy")} | {
        "network": FLAGS.teacher,
        "width": FLAGS.teacher_width,
        "activation": "relu",
        "epochs": FLAGS.teacher_epochs,
        "augment": FLAGS.teacher_augment,
    }


def _angles(run: Run, teacher: keras.Model, train: data.Dataset) -> list[keras.callbacks.Callback]:
    """The callbacks of --angle_every."""
    if not FLAGS.angle_every:
        return []
    target = shared_flags.target()
    return [
        callbacks.GradientAngle(
            teacher,
            run.images(train),
            target="label" if target == "all" else target,
            every=FLAGS.angle_every,
            name=ANGLE,
        )
    ]


if __name__ == "__main__":
    define_flags()
    command.run(main)
