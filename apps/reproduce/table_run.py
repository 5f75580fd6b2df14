"""Runs the cells of an experiment that are not finished, and writes the table after each."""

import datetime
import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from tfgrad.errors import ArgumentError, ResumeError
from tfgrad.internal import files

from ..common import terminal, work_directory
from .results import cells as kept
from .results import figures, tables
from .runners import examinations, students, toy
from .runners.bench import Bench, Options
from .schema import Cell, Examination, Experiment, Table, Toy


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
    terminal.show(
        f"\n{tables.markdown(table, _completed(table, records))}\n\nwritten to {work_dir}"
    )
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
        recorded = record["declaration"]["settings"]
        if (recorded["name"], recorded["scale"]) != (table.name, table.scale):
            raise ResumeError(
                f"--work_dir: got {work_dir!r}, which holds {recorded['name']} at "
                f"--scale={recorded['scale']}; expected {table.name} at --scale={table.scale}; try "
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
