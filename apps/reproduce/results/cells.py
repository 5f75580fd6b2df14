"""Cells of an experiment: which of them a command asks for, and their records on disk."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfgrad.errors import ArgumentError, ResumeError
from tfgrad.evaluation.records import differences
from tfgrad.internal import arguments, files

from ...common import work_directory
from ..schema import Cell, Table, declaration, digest

Records = Mapping[str, dict[str, Any]]  # {id of a cell: record}


class CellStore:
    """The records of finished cells, one file each in WORK_DIR/cells.

    Several processes may share the directory.

    Args:
        work_dir: The work directory.

    Raises:
        ArgumentError: The directory cannot be written.
    """

    def __init__(self, work_dir: str) -> None:
        self.directory = os.path.join(work_dir, "cells")
        try:
            os.makedirs(self.directory, exist_ok=True)
        except OSError as error:
            raise ArgumentError(
                f"--work_dir: got {work_dir!r}, which cannot be written ({error.strerror}); "
                "expected a directory for results; try another one."
            ) from error

    def path(self, cell: Cell) -> str:
        """The file of a cell's record."""
        return os.path.join(self.directory, f"{cell.id}.json")

    def write(self, cell: Cell, settings: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Write a record, with the declaration of its cell."""
        described = declaration(settings, cell)
        files.write_text(
            self.path(cell),
            json.dumps({"digest": digest(described), "declaration": described, **record}) + "\n",
        )

    def read(self, cells: Iterable[Cell], settings: Mapping[str, Any] | None) -> dict[str, Any]:
        """The existing records, by the ids of their cells.

        Args:
            cells: The cells whose records are read.
            settings: Settings with which they must have been made; None requires only that all
                have the same.

        Raises:
            ResumeError: A record is damaged, or was made with other settings.
        """
        records: dict[str, Any] = {}
        cells = [cell for cell in cells if os.path.exists(self.path(cell))]
        for cell in cells:
            record = records[cell.id] = work_directory.read_json(self.path(cell))
            if not isinstance(record, dict) or "declaration" not in record:
                raise ResumeError(
                    f"--work_dir: got {self.path(cell)!r}, which is damaged; expected the "
                    "record of a cell; try removing the file."
                )
        if settings is None:
            settings = {}
            for record in records.values():  # Only some rows declare a pre-trained network.
                settings = record["declaration"]["settings"] | settings
        for cell in cells:
            path, record = self.path(cell), records[cell.id]
            expected = declaration(settings, cell)
            if record.get("digest") != digest(expected):
                changes = "; ".join(differences(record["declaration"], expected)) or "its digest"
                raise ResumeError(
                    f"--work_dir: got {path!r}, made under other settings ({changes}); expected "
                    "those of this command; try another --work_dir, or remove the file."
                )
        return records


def narrowed(
    table: Table,
    rows: Sequence[str] = (),
    sizes: Sequence[str] = (),
    seeds: Sequence[str] = (),
    part: str = "0/1",
) -> list[Cell]:
    """The cells that a command asks for.

    Args:
        table: The experiment.
        rows: Numbers from 1, or labels; all rows if empty.
        sizes: Sizes; all if empty.
        seeds: Seeds; all if empty.
        part: "i/n" for every nth cell of these, from the ith on.

    Raises:
        ArgumentError: The experiment has no such row, size or seed, or the part is malformed.
    """
    names = {text: row.slug for i, row in enumerate(table.rows, 1) for text in (str(i), row.label)}
    known_sizes = {str(size): size for size, _ in table.sizes}
    most = max(count for _, count in table.sizes)
    wanted_rows = _chosen("rows", rows, names)
    wanted_sizes = _chosen("sizes", sizes, known_sizes)
    wanted_seeds = _chosen("seeds", seeds, {str(seed): seed for seed in range(most)})
    cells = [
        cell
        for cell in table.cells()
        if cell.row.slug in wanted_rows and cell.size in wanted_sizes and cell.seed in wanted_seeds
    ]
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ArgumentError(
            f"--part: got {part!r}; expected INDEX/COUNT with 0 ≤ INDEX < COUNT; try 0/2 and 1/2."
        )
    return cells[int(index) :: int(count)]


def _chosen(flag: str, texts: Sequence[str], known: Mapping[str, Any]) -> set[Any]:
    found = {known[arguments.one_of(f"--{flag}", text, known)] for text in texts}
    return found or set(known.values())
