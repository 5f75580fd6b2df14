"""Train a classifier with penalties on its gradients.

    python -m apps.train --gradient_norm=0.1 --work_dir=runs/digits
    python -m apps.train --dataset=cifar10 --data_dir=DIR --network=vgg9 --width=0.25 \\
        --normalize --augment --gradient_norm=0.1 --epochs=15 --work_dir=runs/cifar
    python -m apps.train --dataset=photos --network=MobileNetV2 --gradient_norm=0.01 \\
        --work_dir=runs/photos

--dataset=FOLDER trains on a folder of images with a sub-folder for each class. A network of
keras.applications starts from --weights (those of ImageNet, which Keras downloads once) with a new
last layer; like all networks of this command it takes pixels in [0, 1]. Its batch normalisation is
not trained, unless --weights=random; --frozen trains the new layer alone.

The work directory receives run.json (flags, versions), history.jsonl (a line an epoch), TensorBoard
summaries, the state of the last finished epoch, and at the end network.keras (the plain network),
model.keras (with penalties and optimizer; load it to continue training), results.json, noise.md and
history.png. An interrupted run resumes from its last finished epoch when the same command is run
again, and reaches the weights of an uninterrupted run.

Several workers: start the same command once per worker with --strategy=multi_worker and TF_CONFIG
set; worker n > 0 writes to WORK_DIR/worker-n.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 a loss that is not finite, 73 a directory
that another process uses, 74 a full disk, 75 a lost worker.
"""

from .common import command, shared_flags

# isort: split
import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
from absl import flags

from tfgrad import data
from tfgrad.loading.applications import APPLICATIONS
from tfgrad.penalties import Penalty

from .common import compilation, fine_tuning, run_report, training_run

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define all flags of this command."""
    shared_flags.define_data()
    shared_flags.define_network(more=APPLICATIONS)
    fine_tuning.define_flags()
    flags.adopt_module_key_flags(fine_tuning)
    shared_flags.define_penalties()
    training_run.define_flags("runs/train")
    flags.adopt_module_key_flags(training_run)


def main() -> dict[str, Any]:
    """Train, test and save."""
    fine_tuning.check_flags()
    run = training_run.begin(check=shared_flags.build_penalties)
    if run.results is not None:
        return run.results
    chosen = fine_tuning.is_chosen()
    train, test = shared_flags.load_splits(fine_tuning.image_size if chosen else None, chosen)
    train = shared_flags.chosen_from(train)
    run = dataclasses.replace(run, statistics=shared_flags.statistics_of(train))
    with run.strategy.scope():
        penalties = shared_flags.build_penalties()
        model = compilation.compiled_model(
            training_run.regularised(_network(train, penalties)),
            penalties,
            training_run.optimizer(run, train),
            jit_compile=FLAGS.jit_compile,
        )
    training_run.introduce(run, model, train, test)
    history = training_run.fit(run, model, train, test)
    label = run_report.label(*shared_flags.PENALTIES, "weight_decay")
    return run_report.write(run, model, model.network, history, test, label)


def _network(train: data.Dataset, penalties: Sequence[Penalty]) -> keras.Model:
    """The network that flags describe."""
    if not fine_tuning.is_chosen():
        return shared_flags.build_network(train)
    return fine_tuning.made_safe(fine_tuning.network(train), penalties, FLAGS.jit_compile)


if __name__ == "__main__":
    define_flags()
    command.run(main)
