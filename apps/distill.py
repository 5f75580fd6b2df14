"""Train a student with a teacher's help: match its logits, their gradients, its attention.

    python -m apps.distill --teacher=vgg9 --teacher_epochs=15 --dataset=cifar10 --per_class=50 \\
        --normalize --epochs=100 --match_activations=10 --match_jacobian=10 --work_dir=runs/student
    python -m apps.distill --teacher=runs/student/teacher --dataset=cifar10 --per_class=50 \\
        --match_activations=10 --match_jacobian=10 --match_bias_gradients=10 --match_attention=10 \\
        --layers=act1,act2,act3:act4 --angle_every=5 --epochs=100 --work_dir=runs/full_gradients

The teacher is a .keras file of a network that returns logits for the same classes; a work directory
of apps.train; or the name of an architecture, which is then trained first, on the whole training
split whatever --per_class says: Adam at 1e-3, a tenth of it for the last fifth of --teacher_epochs,
--normalize, --teacher_augment. It has a work directory of its own, WORK_DIR/teacher, to be resumed,
explained and given as --teacher to other students.

The images are normalised as the teacher's were, if a results.json beside it tells.

Where nothing is augmented, on one device, the teacher is asked once per image and its answers are
kept in memory; elsewhere, and with --live_teacher, it runs in every step.

The work directory receives what apps.train writes: run.json (flags, versions), history.jsonl (a
line an epoch), TensorBoard summaries, the state of the last finished epoch, and at the end
network.keras (the plain student), model.keras (with penalties, teacher and optimizer),
results.json, noise.md and history.png. The same command run again after a kill goes on from the
last finished epoch and reaches the weights of an uninterrupted run.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 a loss that is not finite.
"""

from apps import entry, settings

# isort: split
import dataclasses
import os

import keras
from absl import flags

from apps import fitting, matching, runs
from apps.experiments.teachers import file_digest
from tfgrad import callbacks, data, models
from tfgrad.errors import ArgumentError, ModelError

FLAGS = flags.FLAGS
ANGLE = "gradient_angle"
TEACHER_BATCH = 64


def define_flags():
    """All flags of this app."""
    flags.DEFINE_string(
        "teacher", None, f"A .keras file, a work directory of apps.train, or {_names()}."
    )
    flags.DEFINE_float("teacher_width", 1.0, "Of a named teacher: channel multiplier.", 0)
    flags.DEFINE_integer(
        "teacher_epochs", 15, "Of a named teacher: passes over the training split.", lower_bound=1
    )
    flags.DEFINE_bool("teacher_augment", False, "Of a named teacher: random flips, padded crops.")
    flags.DEFINE_integer(
        "angle_every",
        None,
        "Epochs between measurements of the angle between the teacher's and the student's "
        "input-gradients on the training set; default: never.",
        lower_bound=1,
    )
    settings.define_data()
    settings.define_network()
    matching.define_matching(
        {name: 1.0 if name == "match_activations" else 0.0 for name in matching.WEIGHTS}
    )
    matching.define_logit_matching()
    settings.define_penalties()
    fitting.define_flags("runs/student")
    flags.adopt_module_key_flags(matching)
    flags.adopt_module_key_flags(fitting)


def main():
    """Find or train the teacher; train the student; test, save."""
    if not FLAGS.teacher:
        raise ArgumentError(f"--teacher: not given; name a file, a directory or {_names()}.")
    matching.check_flags()
    named = FLAGS.teacher in models.NAMES
    run = fitting.begin(None if named else {"teacher_digest": file_digest(FLAGS.teacher)})
    if run.results is not None:
        return run.results
    whole, test = settings.load_splits()
    train = settings.chosen_from(whole)
    path = _taught(run, train, whole, test) if named else FLAGS.teacher
    with run.strategy.scope():
        learned = matching.load(path)
    run = dataclasses.replace(run, statistics=matching.statistics(learned, train))
    model = _student(run, learned.network, train)
    fitting.introduce(run, model, train, test)
    history = fitting.fit(
        run, model, train, test, matching.recorded(), _angles(run, learned.network, train)
    )
    more = {"teacher": {"path": learned.path, "accuracy": learned.accuracy}}
    if FLAGS.angle_every:
        more[ANGLE] = history[-1][ANGLE]
    return fitting.report(run, model, model.network, history, test, matching.label(), **more)


def _names():
    return f"one of {', '.join(models.NAMES)}"


def _student(run, teacher, train, verbose=True):
    """The student's compiled model."""
    classes = matching.check_teacher(teacher, train)
    if classes != len(train.classes):
        raise ModelError(
            f"--teacher: knows {classes} classes; {train.name!r} has {len(train.classes)}. "
            "apps.transfer learns from a teacher of other classes."
        )
    # The same first weights whether or not a teacher was trained before.
    keras.utils.set_random_seed(FLAGS.seed)
    with run.strategy.scope():
        network = fitting.regularised(settings.build_network(train))
        matched = matching.build(network, teacher, train, verbose=verbose)
        return settings.compiled_model(
            network,
            [*matched, *settings.build_penalties()],
            fitting.optimizer(run, train),
            FLAGS.jit_compile,
            teacher,
            FLAGS.supervised,
        )


def _taught(run, train, whole, test):
    """The work directory of a teacher, trained here if it is not there."""
    directory = os.path.join(run.directory, "teacher")
    run = dataclasses.replace(
        run,
        directory=directory,
        epochs=FLAGS.teacher_epochs,
        batch_size=TEACHER_BATCH,
        augment=FLAGS.teacher_augment,
        statistics=settings.statistics_of(whole),
    )
    if run.results is not None:
        return directory
    with run.strategy.scope():
        network = models.get(
            FLAGS.teacher, whole.image_shape, len(whole.classes), FLAGS.teacher_width
        )
        # What is wrong with the student must not wait for the end of the teacher's training.
        _student(run, network, train, verbose=False)
        steps = data.steps_per_epoch(whole, run.batch_size)
        drop = round(0.8 * run.epochs) * steps
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([drop], [1e-3, 1e-4])
        model = settings.compiled_model(
            network, [], keras.optimizers.Adam(rate), jit_compile=FLAGS.jit_compile
        )
    runs.open_directory(directory, _described(), resume=True)
    print(f"first the teacher, in {directory}")
    fitting.introduce(run, model, whole, test)
    history = fitting.fit(run, model, whole, test)
    fitting.report(run, model, network, history, test, f"teacher {FLAGS.teacher}")
    return directory


def _described():
    """What a named teacher depends on, by the names that apps.train's flags have."""
    shared = ("dataset", "image_size", "train_split", "test_split", "normalize", "seed", "noise")
    return {name: getattr(FLAGS, name) for name in (*shared, "dtype_policy", "strategy")} | {
        "network": FLAGS.teacher,
        "width": FLAGS.teacher_width,
        "activation": "relu",
        "epochs": FLAGS.teacher_epochs,
        "augment": FLAGS.teacher_augment,
    }


def _angles(run, teacher, train):
    """The callbacks that --angle_every asks for."""
    if not FLAGS.angle_every:
        return []
    target = settings.target()
    return [
        callbacks.GradientAngle(
            teacher,
            fitting.images(run, train),
            target="label" if target == "all" else target,
            every=FLAGS.angle_every,
            name=ANGLE,
        )
    ]


if __name__ == "__main__":
    define_flags()
    entry.run(main)
