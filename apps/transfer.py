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

from apps import entry, settings

# isort: split
import dataclasses
import math

import numpy as np
from absl import flags

from apps import fitting, matching, runs
from apps.experiments.teachers import file_digest
from tfgrad import data, evaluation, models
from tfgrad.errors import ArgumentError
from tfgrad.models.heads import SOURCE, TARGET

FLAGS = flags.FLAGS


def define_flags():
    """All flags of this app."""
    flags.DEFINE_string("teacher", None, "A .keras file, or a work directory of apps.train.")
    flags.DEFINE_integer(
        "bound", None, "Report Prop. 3's bound between so many images.", lower_bound=1
    )
    flags.DEFINE_string("source_dataset", None, "Of --bound: what the teacher was trained on.")
    flags.DEFINE_string("source_split", "train", "Of --bound: TFDS split or slice.")
    settings.define_data()
    settings.define_network()
    matching.define_matching(
        dict.fromkeys(("match_activations", "match_attention", "match_attention_jacobian"), 10.0)
    )
    settings.define_penalties()
    fitting.define_flags("runs/transfer")
    flags.adopt_module_key_flags(matching)
    flags.adopt_module_key_flags(fitting)


def main():
    """Load the teacher; train the student; test, save."""
    if not FLAGS.teacher:
        raise ArgumentError("--teacher: not given; name a .keras file or a work directory.")
    if bool(FLAGS.bound) != bool(FLAGS.source_dataset):
        raise ArgumentError("--bound, --source_dataset: give both or none.")
    matching.check_flags()
    run = fitting.begin({"teacher_digest": file_digest(FLAGS.teacher)})
    if run.results is not None:
        return run.results
    whole, test = settings.load_splits()
    train = settings.chosen_from(whole)
    with run.strategy.scope():
        learned = matching.load(FLAGS.teacher)
    statistics = matching.statistics(learned, train)
    run = dataclasses.replace(run, statistics=statistics, head=TARGET)
    model = student(run, learned.network, train)
    fitting.introduce(run, model, train, test)
    bound = Bound(run, model.network, learned.network, train) if FLAGS.bound else None
    if bound is not None:
        bound.measure("before training")
    history = fitting.fit(run, model, train, test, matching.recorded())
    more = {"teacher": {"path": learned.path, "accuracy": learned.accuracy}}
    if bound is not None:
        bound.measure("after training")
        more["bound"] = bound.report()
    network = models.one_head(model.network, TARGET)
    return fitting.report(run, model, network, history, test, matching.label(), **more)


def student(run, teacher, train):
    """The compiled model of a student with two heads."""
    classes = matching.check_teacher(teacher, train)
    with run.strategy.scope():
        network = models.two_heads(settings.build_network(train), classes)
        matched = matching.build(network, teacher, train, SOURCE)
        return settings.compiled_model(
            fitting.regularised(network),
            [*matched, *settings.build_penalties(TARGET)],
            fitting.optimizer(run, train),
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
        self._sets = [fitting.images(run, _some(s, FLAGS.bound)) for s in (source, train)]
        self._networks = models.one_head(network, SOURCE), teacher
        self._run, self._rows = run, {}

    def measure(self, when):
        """Add a row."""
        self._rows[when] = evaluation.transfer_bound(*self._networks, *self._sets)

    def report(self):
        """Write and print the table; return it as JSON can hold it."""
        table = evaluation.TransferBound.markdown(self._rows)
        runs.write_text(self._run.path("bound.md"), table + "\n")
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
    entry.run(main)
