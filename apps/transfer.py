"""Learn new classes from few images, without forgetting what a teacher of other classes knows.

    python -m apps.train --dataset=cifar10 --network=resnet9 --width=0.25 --normalize --augment \\
        --image_size=64,64 --work_dir=runs/source
    python -m apps.transfer --teacher=runs/source --dataset=tf_flowers --image_size=64,64 \\
        --train_split='train[:80%]' --test_split='train[80%:]' --per_class=25 --network=vgg9 \\
        --width=0.25 --optimizer=sgd --batch_size=8 --epochs=75 --decay_epochs=40,60 \\
        --work_dir=runs/flowers

The student has two heads on one trunk. The target head learns the labels; the source head has the
teacher's classes and matches its logits on the target images (learning without forgetting), and the
trunk matches its attention maps and their input-gradients. Images of the source are never used for
training. All three have weight 10, in the papers and by default; 0 omits one. The papers match one
early pair of layers (--pairs=1, or --layers).

The teacher is a .keras or .h5 file of a classifier, or a work directory of apps.train.
The images are normalised as the teacher's were, if there is a results.json beside it. Without
augmentation and on one device, the teacher runs once per image; otherwise, and with --live_teacher,
in every step.

--bound=N reports both sides of Proposition 3's bound between N images of --source_dataset and N of
the target's training images, before and after training: how far a match with the teacher on the
target guarantees one on the source.

The work directory receives what apps.train writes: run.json (flags, versions), history.jsonl (a
line an epoch), TensorBoard summaries, the state of the last finished epoch, and at the end
network.keras (the plain classifier of the target's classes, for apps.explain and apps.export),
model.keras (both heads, penalties, teacher and optimizer), results.json, noise.md, history.png and
with --bound bound.md. An interrupted run resumes from its last finished epoch when the same command
is run again, and reaches the weights of an uninterrupted run.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 a loss that is not finite, 73 a directory
that another process uses, 74 a full disk, 75 a lost worker.
"""

from .common import command, invocation, shared_flags

# isort: split
import dataclasses
import math
from typing import Any

import keras
import numpy as np
from absl import flags

import tfgrad
from tfgrad import data, evaluation, models
from tfgrad.errors import ArgumentError
from tfgrad.internal import files
from tfgrad.models.heads import SOURCE, TARGET

from .common import compilation, run_report, teacher_flags, terminal, training_run
from .common.trained_networks import file_digest, image_size
from .common.training_run import Run

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define all flags of this command."""
    flags.DEFINE_string(
        "teacher", None, f"A .keras file, or a work directory of {invocation.named('train')}."
    )
    flags.DEFINE_integer(
        "bound", None, "Number of images of each data set for Prop. 3's bound; default: none.", 1
    )
    flags.DEFINE_string(
        "source_dataset", None, "Data set that the teacher was trained on, for --bound."
    )
    flags.DEFINE_string("source_split", "train", "Split or slice of --source_dataset.")
    shared_flags.define_data()
    shared_flags.define_network()
    teacher_flags.define_matching(
        dict.fromkeys(("match_activations", "match_attention", "match_attention_jacobian"), 10.0)
    )
    shared_flags.define_penalties()
    training_run.define_flags("runs/transfer")
    flags.adopt_module_key_flags(teacher_flags)
    flags.adopt_module_key_flags(training_run)


def main() -> dict[str, Any]:
    """Load the teacher, train the student, test and save."""
    if not FLAGS.teacher:
        raise ArgumentError("--teacher: got none; expected a .keras file or a work directory.")
    if bool(FLAGS.bound) != bool(FLAGS.source_dataset):
        raise ArgumentError("--bound, --source_dataset: got one of them; expected both or none.")
    teacher_flags.check_flags()
    run = training_run.begin(
        {"teacher_digest": file_digest(FLAGS.teacher)}, shared_flags.build_penalties
    )
    if run.results is not None:
        return run.results
    whole, test = shared_flags.load_splits(lambda: image_size(FLAGS.teacher))
    train = shared_flags.chosen_from(whole)
    with run.strategy.scope():
        learned = teacher_flags.load(FLAGS.teacher)
    statistics = teacher_flags.statistics(learned, train)
    run = dataclasses.replace(run, statistics=statistics, head=TARGET)
    model = student(run, learned.network, train)
    training_run.introduce(run, model, train, test)
    bound = Bound(run, model.network, learned.network, train) if FLAGS.bound else None
    if bound is not None:
        bound.measure("before training")
    history = training_run.fit(run, model, train, test, teacher_flags.recorded())
    more = {"teacher": {"path": learned.path, "accuracy": learned.accuracy}}
    if bound is not None:
        bound.measure("after training")
        more["bound"] = bound.report()
    network = models.one_head(model.network, TARGET)
    return run_report.write(run, model, network, history, test, teacher_flags.label(), **more)


def student(run: Run, teacher: keras.Model, train: data.Dataset) -> tfgrad.PenalizedModel:
    """The compiled model of a student with two heads."""
    classes = teacher_flags.check_teacher(teacher, train)
    with run.strategy.scope():
        network = models.two_heads(shared_flags.build_network(train), classes)
        matched = teacher_flags.build(network, teacher, train, SOURCE)
        return compilation.compiled_model(
            training_run.regularised(network),
            [*matched, *shared_flags.build_penalties(TARGET)],
            training_run.optimizer(run, train),
            FLAGS.jit_compile,
            teacher,
            FLAGS.supervised,
            TARGET,
        )


class Bound:
    """Prop. 3's bound for a student in training.

    Args:
        run: The run.
        network: Student with two heads.
        teacher: Teacher of its source head.
        train: Training set, the target.
    """

    def __init__(
        self, run: Run, network: keras.Model, teacher: keras.Model, train: data.Dataset
    ) -> None:
        source = data.load(
            FLAGS.source_dataset,
            FLAGS.source_split,
            data_dir=FLAGS.data_dir,
            download=FLAGS.download,
            image_size=train.image_shape[:2],
        )
        if source.image_shape != train.image_shape:
            raise ArgumentError(
                f"--source_dataset: got images {source.image_shape}; expected {train.image_shape}, "
                f"those of {train.name!r}; try a data set with as many channels."
            )
        self._sets = [run.images(_some(s, FLAGS.bound)) for s in (source, train)]
        self._networks = models.one_head(network, SOURCE), teacher
        self._run = run
        self._rows: dict[str, evaluation.TransferBound] = {}

    def measure(self, when: str) -> None:
        """Add a row to the table."""
        self._rows[when] = evaluation.transfer_bound(*self._networks, *self._sets)

    def report(self) -> dict[str, Any]:
        """Write and print the table; return what results.json holds of it."""
        table = evaluation.TransferBound.markdown(self._rows)
        files.write_text(self._run.path("bound.md"), table + "\n")
        terminal.show(f"\nProposition 3\n{table}")
        return {when: _finite(row) for when, row in self._rows.items()}


def _some(dataset: data.Dataset, count: int) -> data.Dataset:
    """`count` random examples, or all if there are fewer."""
    chosen = np.sort(np.random.default_rng(FLAGS.seed).permutation(len(dataset))[:count])
    return dataclasses.replace(
        dataset, images=dataset.images[chosen], labels=dataset.labels[chosen]
    )


def _finite(row: evaluation.TransferBound) -> dict[str, Any]:
    """The row without infinite numbers, which JSON lacks."""
    numbers = dataclasses.asdict(row) | {"bound": row.bound, "holds": row.holds}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }


if __name__ == "__main__":
    define_flags()
    command.run(main)
