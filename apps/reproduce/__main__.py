"""Reproduce a table or a figure of the papers, cell by cell.

    python -m apps.reproduce --list
    python -m apps.reproduce t4.2 --data_dir=DIR --work_dir=runs/t4.2
    python -m apps.reproduce t4.2 --data_dir=DIR --work_dir=runs/t4.2 --table_only

The experiment's name comes first (or as --experiment=NAME). --scale=small fits two CPU cores,
--scale=paper is the papers' own setting. A cell is a row of the table, a size of the training set
and a seed; sizes come first, then seeds, then rows, so that what was cut off has complete
comparisons. Each finished cell is a file in WORK_DIR/cells, and the same command run again does
only those that are not there. A loss that is not finite fails its cell, and the run goes on;
remove the cell's file to try again.

The experiments of Chapter 5 and Table 2.2 examine trained networks, and share those of equal
settings: give them all the same --networks_dir.

Several processes, or machines with a common disk, may share a work directory: give each its
--part, 0/2 and 1/2 for two, and on two cores --threads=1 to each. The first to need a teacher
trains it, the others wait. Teachers are kept in WORK_DIR/teachers; --teacher=FILE.keras, or a
directory of apps.train, takes another one. --rows, --sizes and --seeds narrow down.

After every cell WORK_DIR/NAME.md (the table beside the paper's numbers), NAME.json and, for a
figure, NAME.png are written anew.

Exit codes: 0 done, 64 usage, 65 bad data or model.
"""

from ..common import command, shared_flags, work_directory

# isort: split
import dataclasses
import datetime
import json
import os
import sys
import time
from typing import Any

import tensorflow as tf
from absl import flags

from tfgrad.errors import ArgumentError, ResumeError

from . import examination, papers
from .results import figures, tables
from .runners import examinations, students, toy
from .schema import Cell, Experiment, Table

FLAGS = flags.FLAGS


def define_flags():
    """All flags of this app."""
    flags.DEFINE_string("experiment", None, "Which one; or its name as the first argument.")
    flags.DEFINE_bool("list", False, "List the experiments and stop.")
    flags.DEFINE_enum("scale", "small", papers.SCALES, "Two CPU cores, or the papers' own.")
    flags.DEFINE_string("work_dir", None, "Where everything is written; default: runs/NAME.")
    flags.DEFINE_string("part", "0/1", "INDEX/COUNT: take every COUNT-th cell, from this one.")
    flags.DEFINE_list("rows", [], "Only these rows: numbers from 1, or labels.")
    flags.DEFINE_list("sizes", [], "Only these sizes.")
    flags.DEFINE_list("seeds", [], "Only these seeds.")
    flags.DEFINE_bool("table_only", False, "Train nothing; print the table of what is there.")
    flags.DEFINE_string("teacher", None, "FILE.keras or a directory of apps.train to learn from.")
    flags.DEFINE_string("pretrained", None, "The same, for the pre-trained student of t2.3.")
    flags.DEFINE_string(
        "networks_dir", None, "Where examined networks are kept; default: WORK_DIR/networks."
    )
    flags.DEFINE_integer("epochs", None, "Squeeze the students' schedule into so many.", 1)
    flags.DEFINE_string("train_split", None, "TFDS split or slice; default: the experiment's.")
    flags.DEFINE_string("test_split", None, "TFDS split or slice; default: the experiment's.")
    flags.DEFINE_integer("threads", None, "CPU threads; default: all.", lower_bound=1)
    flags.DEFINE_bool("jit_compile", False, "Compile the step with XLA.")
    shared_flags.define_dataset(default=None)


def main():
    """Run the cells that are asked for and not done, and write the table."""
    if FLAGS.list:
        for name in papers.DECLARED:
            table = papers.declared(name, FLAGS.scale)
            print(f"{name:6} {len(table.cells()):3} cells  {table.title}")
        return
    # Every cell is a model of its own and is traced anew; TensorFlow would warn of that.
    tf.get_logger().setLevel("ERROR")
    if FLAGS.threads:
        tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
        tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
    table = changed(papers.declared(FLAGS.experiment, FLAGS.scale))
    run(
        table,
        FLAGS.work_dir or os.path.join("runs", table.name),
        students.Options(
            data_dir=FLAGS.data_dir,
            download=FLAGS.download,
            teacher=FLAGS.teacher,
            pretrained=FLAGS.pretrained,
            jit_compile=FLAGS.jit_compile,
            networks_dir=FLAGS.networks_dir,
        ),
        tables.narrowed(table, FLAGS.rows, FLAGS.sizes, FLAGS.seeds, FLAGS.part),
        table_only=FLAGS.table_only,
    )


def changed(table: Table) -> Table:
    """The experiment with the data set, the splits and the epochs that flags ask for."""
    if not isinstance(table, Experiment):
        for name in ("dataset", "image_size", "train_split", "test_split", "epochs", "teacher"):
            if getattr(FLAGS, name):
                raise ArgumentError(
                    f"--{name}: {table.name} has settings of its own; leave it out."
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
    options: students.Options,
    cells: list[Cell],
    table_only: bool = False,
) -> dict[str, Any]:
    """Run the cells that are not done, in order, and write the table after each.

    Returns:
        All records of the experiment that are there, by the cells' ids.

    Raises:
        ResumeError: a record in the work directory was made with other settings.
    """
    store = tables.Store(work_dir)
    shared = None if table_only else _settings(table, options)
    records = store.read(table.cells(), shared)
    _check_same_table(table, records, work_dir)
    waiting = [] if table_only else _runnable(table, cells, records, options)
    if waiting and shared is not None:
        print(f"{table.title}\n{_as_run(table, shared).summary()}", flush=True)
        bench, run_cell = _prepared(table, work_dir, options)
        began = time.monotonic()
        for done, cell in enumerate(waiting, 1):
            record = run_cell(bench, cell)
            record |= {
                "versions": work_directory.versions(),
                "command": tables.command_line(sys.argv[1:]),
            }
            store.write(cell, shared, record)
            records = store.read(table.cells(), shared)  # Others may have finished some, too.
            report(table, records, work_dir)
            _say(table, cell, record, done, len(waiting), time.monotonic() - began)
    report(table, records, work_dir)
    print(f"\n{tables.markdown(table, _completed(table, records))}\n\nwritten to {work_dir}")
    return records


def report(table: Table, records: tables.Records, work_dir: str) -> None:
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
    tables.write_text(f"{base}.md", page)
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
    tables.write_text(f"{base}.json", json.dumps(content, indent=2) + "\n")


def _settings(table: Table, options: students.Options) -> dict[str, Any]:
    if isinstance(table, Experiment):
        return students.settings(table, options)
    return table.settings()


def _check_same_table(table: Table, records: tables.Records, work_dir: str) -> None:
    for record in records.values():
        told = record["declaration"]["settings"]
        if (told["name"], told["scale"]) != (table.name, table.scale):
            raise ResumeError(
                f"--work_dir: {work_dir!r} holds {told['name']} at --scale={told['scale']}, not "
                f"{table.name} at --scale={table.scale}."
            )


def _as_run(table: Table, shared: dict[str, Any]) -> Table:
    return table.as_run(shared) if isinstance(table, Experiment) else table


def _completed(table: Table, records: tables.Records) -> tables.Records:
    return toy.compared(table, records) if isinstance(table, toy.Toy) else records


def _runnable(table, cells, records, options) -> list[Cell]:
    """The cells that are not done; rows that lack a file are named and left out."""
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


def _prepared(table, work_dir, options):
    if isinstance(table, toy.Toy):
        return toy.Bench(table), toy.run_cell
    if isinstance(table, examination.Examination):
        return examinations.Bench(table, work_dir, options), examinations.run_cell
    return students.Bench(table, work_dir, options), students.run_cell


def _say(table, cell, record, done, count, seconds):
    left = datetime.timedelta(seconds=round(seconds / done * (count - done)))
    print(
        f"{table.size_title(cell.size)}, seed {cell.seed}, {cell.row.label}: "
        f"{tables.said(record, table.metrics)}  {record['seconds']:.1f} s  "
        f"[{done} of {count} cells, {left} left]",
        flush=True,
    )


def with_flag(arguments: list[str]) -> list[str]:
    """The command line with the experiment's name as a flag, wherever it stands."""
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
