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

After every cell, WORK_DIR/NAME.md (the table with the paper's numbers), NAME.json and, for a
figure, NAME.png are written again.

Exit codes: 0 done, 64 usage, 65 bad data or model.
"""

from ..common import command, shared_flags, work_directory

# isort: split
import dataclasses
import datetime
import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import flags

from tfgrad.errors import ArgumentError, ResumeError
from tfgrad.internal import files

from . import papers
from .results import cells as kept
from .results import figures, tables
from .runners import examinations, students, toy
from .runners.bench import Bench, Options
from .schema import Cell, Examination, Experiment, Table, Toy

FLAGS = flags.FLAGS


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
        "teacher", None, "Teacher: FILE.keras, or the work directory of apps.train."
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
        kept.narrowed(table, FLAGS.rows, FLAGS.sizes, FLAGS.seeds, FLAGS.part),
        table_only=FLAGS.table_only,
    )


def changed(table: Table) -> Table:
    """The experiment with the data set, the splits and the epochs of the flags.

    Raises:
        ArgumentError: A flag is given that the experiment does not allow.
    """
    if not isinstance(table, Experiment):
        for name in ("dataset", "image_size", "train_split", "test_split", "epochs", "teacher"):
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


def run(
    table: Table,
    work_dir: str,
    options: Options,
    cells: list[Cell],
    table_only: bool = False,
) -> dict[str, Any]:
    """Run the cells that are not finished, in order, and write the table after each.

    Args:
        table: The experiment.
        work_dir: The work directory.
        options: The user's choices.
        cells: The selected cells.
        table_only: Whether to run no cell and only write the table.

    Returns:
        All existing records of the experiment, by the ids of their cells.

    Raises:
        ResumeError: A record in the work directory was made with other settings.
    """
    store = kept.CellStore(work_dir)
    shared = None if table_only else _settings(table, options)
    records = store.read(table.cells(), shared)
    _check_same_table(table, records, work_dir)
    waiting = [] if table_only else _runnable(table, cells, records, options)
    if waiting and shared is not None:
        print(f"{table.title}\n{_as_run(table, shared).summary()}", flush=True)
        run_cell = _runner(table, work_dir, options)
        began = time.monotonic()
        for done, cell in enumerate(waiting, 1):
            record = run_cell(cell)
            record |= {
                "versions": work_directory.versions(),
                "command": tables.command_line(sys.argv[1:]),
            }
            store.write(cell, shared, record)
            records = store.read(table.cells(), shared)  # Other processes add records, too.
            report(table, records, work_dir)
            _print_progress(table, cell, record, done, len(waiting), time.monotonic() - began)
    report(table, records, work_dir)
    print(f"\n{tables.markdown(table, _completed(table, records))}\n\nwritten to {work_dir}")
    return records


def report(table: Table, records: kept.Records, work_dir: str) -> None:
    """Write NAME.md, NAME.json and, for a figure, NAME.png."""
    records = _completed(table, records)
    commands = sorted({record["command"] for record in records.values()})
    base = os.path.join(work_dir, table.name)
    drawn = figures.draw(table, records, base)
    more = [f"![{table.title}]({os.path.basename(path)})" for path in drawn]
    teachers = sorted(
        {record["learned_from"] for record in records.values() if "learned_from" in record}
    )
    more += [f"Teacher: {teacher}." for teacher in teachers]
    first = next(iter(records.values()), {})
    shared = first.get("declaration", {}).get("settings")
    page = tables.page(_as_run(table, shared or {}), records, commands, more)
    files.write_text(f"{base}.md", page)
    content = {
        "name": table.name,
        "title": table.title,
        "scale": table.scale,
        "settings": shared,
        "rows": tables.results(table, records),
        "cells_done": len(records),
        "cells": len(table.cells()),
        "seconds": round(sum(record["seconds"] for record in records.values()), 1),
        "commands": commands,
        "versions": first.get("versions"),
    }
    files.write_json(f"{base}.json", content)


def _settings(table: Table, options: Options) -> dict[str, Any]:
    if isinstance(table, Experiment):
        return students.settings(table, options)
    return table.settings()


def _check_same_table(table: Table, records: kept.Records, work_dir: str) -> None:
    for record in records.values():
        told = record["declaration"]["settings"]
        if (told["name"], told["scale"]) != (table.name, table.scale):
            raise ResumeError(
                f"--work_dir: got {work_dir!r}, which holds {told['name']} at "
                f"--scale={told['scale']}; expected {table.name} at --scale={table.scale}; try "
                "another --work_dir."
            )


def _as_run(table: Table, shared: dict[str, Any]) -> Table:
    return table.as_run(shared) if isinstance(table, Experiment) else table


def _completed(table: Table, records: kept.Records) -> kept.Records:
    return toy.compared(table, records) if isinstance(table, Toy) else records


def _runnable(
    table: Table, cells: list[Cell], records: kept.Records, options: Options
) -> list[Cell]:
    """The cells that are not finished, without rows that need a file that is not given.

    Raises:
        ArgumentError: All rows need such a file.
    """
    waiting = [cell for cell in cells if cell.id not in records]
    reasons = {}
    if isinstance(table, Experiment):
        rows = {cell.row.slug: cell.row for cell in waiting}
        reasons = {slug: students.missing(table, row, options) for slug, row in rows.items()}
        reasons = {slug: reason for slug, reason in reasons.items() if reason}
    if reasons and len(reasons) == len({cell.row.slug for cell in waiting}):
        raise ArgumentError(next(iter(reasons.values())))
    for slug, reason in reasons.items():
        print(f"left out: {slug} ({reason})", flush=True)
    return [cell for cell in waiting if cell.row.slug not in reasons]


def _runner(table: Table, work_dir: str, options: Options) -> Callable[[Cell], dict[str, Any]]:
    """A function that runs a cell and returns its record."""
    if isinstance(table, Toy):
        return functools.partial(toy.run_cell, toy.ToyBench(table))
    if isinstance(table, Examination):
        return functools.partial(examinations.run_cell, Bench(table, work_dir, options))
    assert isinstance(table, Experiment)
    bench = students.StudentBench(table, work_dir, options)
    return functools.partial(students.run_cell, bench)


def _print_progress(
    table: Table, cell: Cell, record: dict[str, Any], done: int, count: int, seconds: float
) -> None:
    left = datetime.timedelta(seconds=round(seconds / done * (count - done)))
    print(
        f"{table.size_title(cell.size)}, seed {cell.seed}, {cell.row.label}: "
        f"{tables.in_words(record, table.metrics)}  {record['seconds']:.1f} s  "
        f"[{done} of {count} cells, {left} left]",
        flush=True,
    )


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
