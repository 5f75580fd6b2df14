"""Reproduce a table or a figure of the papers, cell by cell.

    python -m apps.reproduce --list
    python -m apps.reproduce t4.2 --data_dir=DIR --work_dir=runs/t4.2
    python -m apps.reproduce t4.2 --data_dir=DIR --work_dir=runs/t4.2 --table_only

The name of the experiment is the first argument (or --experiment=NAME). --scale=small fits two CPU
cores, --scale=paper has the papers' own settings. A cell is a row of the table, a size of the
training set and a seed. Cells run size by size, then seed by seed, then row by row, so that an
interrupted run has complete comparisons. Each finished cell is a file in WORK_DIR/cells, and the
same command run again continues with the missing cells. If a loss is not finite, its cell fails and
the run continues; remove the cell's file to repeat it.

The experiments of Chapter 5 and Table 2.2 examine trained networks, and share networks of equal
settings if they have the same --networks_dir.

Several processes, or machines with a common disk, can share a work directory: give each its
--part, 0/2 and 1/2 for two, and on two cores --threads=1 to each. The first process that needs a
teacher trains it while the others wait. Teachers are kept in WORK_DIR/teachers;
--teacher=FILE.keras, or the work directory of apps.train, uses another one. --rows, --sizes and
--seeds select cells.

Writes WORK_DIR/NAME.md (the table with the paper's numbers), NAME.json and, for a figure, NAME.png
again after every cell.

Exit codes: 0 done, 64 usage, 65 bad data or model, 74 a full disk.
"""

from ..common import command, invocation, shared_flags

# isort: split
import dataclasses
import os
import sys
from typing import Any

import tensorflow as tf
from absl import flags

from tfgrad.errors import ArgumentError

from . import papers
from .results import cells
from .runners.bench import Options
from .schema import Experiment, Table
from .table_run import run

FLAGS = flags.FLAGS

# Flags that only experiments with students take; the others have settings of their own.
_OF_STUDENTS = (
    "dataset",
    "image_size",
    "train_split",
    "test_split",
    "epochs",
    "teacher",
    "pretrained",
)


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("experiment", None, "Name of the experiment; or the first argument.")
    flags.DEFINE_bool("list", False, "List the experiments and exit.")
    flags.DEFINE_enum(
        "scale", "small", papers.SCALES, "small for two CPU cores; paper for the papers' settings."
    )
    flags.DEFINE_string("work_dir", None, "Directory of all results; default: runs/NAME.")
    flags.DEFINE_string("part", "0/1", "INDEX/COUNT: run every COUNT-th cell from this one on.")
    flags.DEFINE_list("rows", [], "Rows to run: numbers from 1, or labels; default: all.")
    flags.DEFINE_list("sizes", [], "Sizes to run; default: all.")
    flags.DEFINE_list("seeds", [], "Seeds to run; default: all.")
    flags.DEFINE_bool("table_only", False, "Print the table of the finished cells; train nothing.")
    flags.DEFINE_string(
        "teacher", None, f"Teacher: FILE.keras, or a work directory of {invocation.named('train')}."
    )
    flags.DEFINE_string(
        "pretrained", None, "Network from which the pre-trained student of t2.3 starts."
    )
    flags.DEFINE_string(
        "networks_dir", None, "Directory of the examined networks; default: WORK_DIR/networks."
    )
    flags.DEFINE_integer(
        "epochs", None, "Epochs of the students; their schedule is compressed to fit.", 1
    )
    flags.DEFINE_string("train_split", None, "TFDS split or slice; default: the experiment's.")
    flags.DEFINE_string("test_split", None, "TFDS split or slice; default: the experiment's.")
    flags.DEFINE_integer("threads", None, "CPU threads; default: all.", lower_bound=1)
    flags.DEFINE_bool("jit_compile", False, "Compile the training step with XLA.")
    shared_flags.define_dataset(default=None)


def main() -> None:
    """Run the selected cells that are not finished, and write the table."""
    if FLAGS.list:
        for name in papers.DECLARED:
            table = papers.declared(name, FLAGS.scale)
            print(f"{name:6} {len(table.cells()):3} cells  {table.title}")
        return
    # Every cell has a model of its own, which is traced again; TensorFlow would warn about that.
    tf.get_logger().setLevel("ERROR")
    if FLAGS.threads:
        tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
        tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
    table = changed(papers.declared(FLAGS.experiment, FLAGS.scale))
    run(
        table,
        FLAGS.work_dir or os.path.join("runs", table.name),
        Options(
            data_dir=FLAGS.data_dir,
            download=FLAGS.download,
            teacher=FLAGS.teacher,
            pretrained=FLAGS.pretrained,
            jit_compile=FLAGS.jit_compile,
            networks_dir=FLAGS.networks_dir,
        ),
        cells.narrowed(table, FLAGS.rows, FLAGS.sizes, FLAGS.seeds, FLAGS.part),
        table_only=FLAGS.table_only,
    )


def changed(table: Table) -> Table:
    """The experiment with the data set, the splits and the epochs of the flags.

    Raises:
        ArgumentError: A flag is given that the experiment does not allow.
    """
    if not isinstance(table, Experiment):
        for name in _OF_STUDENTS:
            if getattr(FLAGS, name):
                raise ArgumentError(
                    f"--{name}: got {getattr(FLAGS, name)!r}; expected none, because {table.name} "
                    "has settings of its own; try without it."
                )
        return table
    changes: dict[str, Any] = {}
    if FLAGS.dataset and FLAGS.dataset != table.dataset:
        changes |= {"dataset": FLAGS.dataset, "train_split": "train", "test_split": "test"}
        if table.teacher and table.teacher.dataset == table.dataset:
            changes["teacher"] = dataclasses.replace(table.teacher, dataset=FLAGS.dataset)
    for name in ("train_split", "test_split"):
        if getattr(FLAGS, name):
            changes[name] = getattr(FLAGS, name)
    if FLAGS.image_size:
        size = changes["image_size"] = shared_flags.image_size()
        for role in ("teacher", "pretrained"):
            source = changes.get(role, getattr(table, role))
            if source:
                changes[role] = dataclasses.replace(source, image_size=size)
    if FLAGS.epochs:
        changes["training"] = table.training.shortened(FLAGS.epochs)
    return dataclasses.replace(table, **changes)


def with_flag(arguments: list[str]) -> list[str]:
    """The arguments, with the experiment's name as --experiment=NAME, wherever it stands."""
    for i, argument in enumerate(arguments):
        if i == 0 and not argument.startswith("-"):
            found = True
        else:
            found = argument in papers.DECLARED and arguments[i - 1] != "--experiment"
        if found:
            return [*arguments[:i], f"--experiment={argument}", *arguments[i + 1 :]]
    return arguments


if __name__ == "__main__":
    define_flags()
    sys.argv[1:] = with_flag(sys.argv[1:])
    command.run(main)
