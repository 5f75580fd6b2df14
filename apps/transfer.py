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
training. The papers weigh all three by 10, and so do the defaults; 0 leaves one out. The papers
match one early pair of layers (--pairs=1, or --layers).

The teacher is a .keras file of a network that returns logits, or a work directory of apps.train.
The images are normalised as the teacher's were, if a results.json beside it tells. Where nothing is
augmented, on one device, it is asked once per image; elsewhere, and with --live_teacher, in every
step.

--bound=N reports both sides of Proposition 3's bound between N images of --source_dataset and N of
the target's training images, before and after training: how far matching the teacher on the target
vouches for matching it on the source.

The work directory receives what apps.train writes: run.json (flags, versions), history.jsonl (a
line an epoch), TensorBoard summaries, the state of the last finished epoch, and at the end
network.keras (the plain classifier of the target's classes, for apps.explain and apps.export),
model.keras (both heads, penalties, teacher and optimizer), results.json, noise.md, history.png and
with --bound bound.md. The same command run again after a kill goes on from the last finished epoch
and reaches the weights of an uninterrupted run.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 a loss that is not finite.
"""

from .common import command, shared_flags

# isort: split
import dataclasses
import math

import numpy as np
from absl import flags

from tfgrad import data, evaluation, models
from tfgrad.errors import ArgumentError
from tfgrad.internal import files
from tfgrad.models.heads import SOURCE, TARGET

from .common import compilation, teacher_flags, training_run
from .common.trained_networks import file_digest

FLAGS = flags.FLAGS


def define_flags():
    """All flags of this app."""
    flags.DEFINE_string("teacher", None, "A .keras file, or a work directory of apps.train.")
    flags.DEFINE_integer(
        "bound", None, "Report Prop. 3's bound between so many images.", lower_bound=1
    )
    flags.DEFINE_string("source_dataset", None, "Of --bound: what the teacher was trained on.")
    flags.DEFINE_string("source_split", "train", "Of --bound: TFDS split or slice.")
    shared_flags.define_data()
    shared_flags.define_network()
    teacher_flags.define_matching(
        dict.fromkeys(("match_activations", "match_attention", "match_attention_jacobian"), 10.0)
    )
    shared_flags.define_penalties()
    training_run.define_flags("runs/transfer")
    flags.adopt_module_key_flags(teacher_flags)
    flags.adopt_module_key_flags(training_run)


def main():
    """Load the teacher; train the student; test, save."""
    if not FLAGS.teacher:
        raise ArgumentError("--teacher: not given; name a .keras file or a work directory.")
    if bool(FLAGS.bound) != bool(FLAGS.source_dataset):
        raise ArgumentError("--bound, --source_dataset: give both or none.")
    teacher_flags.check_flags()
    run = training_run.begin({"teacher_digest": file_digest(FLAGS.teacher)})
    if run.results is not None:
        return run.results
    whole, test = shared_flags.load_splits()
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
    return training_run.report(run, model, network, history, test, teacher_flags.label(), **more)


def student(run, teacher, train):
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
    """Prop. 3's bound for a student in training."""

    def __init__(self, run, network, teacher, train):
        source = data.load(
            FLAGS.source_dataset,
            FLAGS.source_split,
            data_dir=FLAGS.data_dir,
            download=FLAGS.download,
            image_size=train.image_shape[:2],
        )
        if source.image_shape != train.image_shape:
            raise ArgumentError(
                f"--source_dataset: its images are {source.image_shape}, those of {train.name!r} "
                f"{train.image_shape}; expected the same number of channels."
            )
        self._sets = [training_run.images(run, _some(s, FLAGS.bound)) for s in (source, train)]
        self._networks = models.one_head(network, SOURCE), teacher
        self._run, self._rows = run, {}

    def measure(self, when):
        """Add a row."""
        self._rows[when] = evaluation.transfer_bound(*self._networks, *self._sets)

    def report(self):
        """Write and print the table; return it as JSON can hold it."""
        table = evaluation.TransferBound.markdown(self._rows)
        files.write_text(self._run.path("bound.md"), table + "\n")
        print(f"\nProposition 3\n{table}", flush=True)
        return {when: _finite(row) for when, row in self._rows.items()}


def _some(dataset, count):
    """So many examples at random, or all if there are fewer."""
    chosen = np.sort(np.random.default_rng(FLAGS.seed).permutation(len(dataset))[:count])
    return dataclasses.replace(
        dataset, images=dataset.images[chosen], labels=dataset.labels[chosen]
    )


def _finite(row):
    numbers = dataclasses.asdict(row) | {"bound": row.bound, "holds": row.holds}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }


if __name__ == "__main__":
    define_flags()
    command.run(main)
