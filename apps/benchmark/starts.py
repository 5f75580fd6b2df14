"""Costs of first calls in new processes: traces, exports, loading, and the first step of `fit`."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from tfgrad.errors import ArgumentError, ModelError

from . import first_calls, timing

Record = dict[str, Any]
# (network, name of the part, name of the way).
Process = tuple[str, str, str]

NETWORKS = ("MobileNetV2", "ResNet50V2", "EfficientNetV2B0", "DenseNet121")
# {figure: (its unit, what the title of a row says of it)}; CPU seconds stand beside seconds.
FIGURES = {
    "seconds": ("s", ""),
    "nodes": ("nodes", ""),
    "graph_megabytes": ("MB", ", size of the graph"),
}
_LAST_LINES = 5


def measured(
    names: Sequence[str], parts: Sequence[str], rounds: int, save: Callable[[Record], object]
) -> tuple[Record, str]:
    """Ratios of first calls on some networks, and their table.

    Args:
        names: Names of networks, in the order in which they are measured.
        parts: Names among `first_calls.PARTS`.
        rounds: Number of processes for each way of each part.
        save: Takes the record so far, each time that a part of a network is done.

    Raises:
        ModelError: A process failed.
    """
    chosen = [part for part in first_calls.PARTS if part in parts]
    found: dict[str, Record] = {name: {} for name in names}
    schedule = Schedule([p for name in names for p in _processes(name, chosen, rounds)])
    for name in names:
        # What is exported is loaded, and is not kept.
        with tempfile.TemporaryDirectory() as directory:
            exports = Exports(directory)
            for part in chosen:
                figures = _figures(name, part, rounds, exports, schedule)
                found[name][part] = _rows(first_calls.PARTS[part], figures)
                for line in _lines(name, part, found[name][part]):
                    print(line, flush=True)
                save({"start": found})
    return {"start": found}, table(found)


def figures_of(process: str, path: str, build: Callable[[str], Any], images: Any) -> Record:
    """What this process measures: the figures of one first call.

    Args:
        process: PART:WAY:NETWORK.
        path: Where an export is written, or what is loaded.
        build: Takes the name of a network and builds it.
        images: A batch of images.

    Raises:
        ArgumentError: There is no such part or way.
    """
    part, _, rest = process.partition(":")
    way, _, name = rest.partition(":")
    if part not in first_calls.PARTS or way not in first_calls.PARTS[part].ways:
        raise ArgumentError(
            f"--start_of: got {process!r}; expected PART:WAY:NETWORK; try maps:FullGrad:vgg9."
        )
    setting = first_calls.Setting(lambda: build(name), images, path)
    return first_calls.PARTS[part].ways[way](setting)


class Exports:
    """Where the processes of one network write exports, and read them.

    Args:
        directory: An empty directory.

    Attributes:
        written: {way: path of its last export}.
    """

    def __init__(self, directory: str) -> None:
        self.directory, self.count = directory, 0
        self.written: dict[str, str] = {}

    def new(self) -> str:
        """A path that does not exist yet."""
        self.count += 1
        return os.path.join(self.directory, str(self.count))


class Schedule:
    """Runs processes, and says before each what it measures, how long that takes, and all others.

    Args:
        processes: All of them.
    """

    def __init__(self, processes: Sequence[Process]) -> None:
        self.left = list(processes)
        self.count = len(processes)
        self.spent: dict[Process, list[float]] = {}

    def expected(self, process: Process) -> float:
        """The seconds of a process: the median of its earlier ones, or what the others suggest."""
        if process in self.spent:
            return statistics.median(self.spent[process])
        usual = sum(_usual(done) * len(times) for done, times in self.spent.items())
        spent = sum(map(sum, self.spent.values()))
        return _usual(process) * (spent / usual if usual else 1.0)

    def run(self, process: Process, exports: Exports) -> Record:
        """The figures that a new process measures."""
        name, part, way = process
        path = exports.written[way] if part == "load" else exports.new()
        number = self.count - len(self.left) + 1
        what = f"{first_calls.PARTS[part].title}: {way}"
        minutes = max(round(sum(map(self.expected, self.left)) / 60), 1)
        print(
            f"compiling {name}, {what}: about {self.expected(process):.0f} s "
            f"(process {number} of {self.count}, {minutes} min left)",
            flush=True,
        )
        start = time.monotonic()
        result = timing.of_new_process(f"--start_of={part}:{way}:{name}", f"--start_path={path}")
        self.left.remove(process)
        self.spent.setdefault(process, []).append(time.monotonic() - start)
        if result.code:
            last = "\n  ".join(result.messages.splitlines()[-_LAST_LINES:])
            raise ModelError(
                f"--models: got {name!r}, whose process for {what!r} ended with exit code "
                f"{result.code}; expected a network that can be measured; try another --side, or "
                f"--models without it. The last lines of the process:\n  {last}"
            )
        figures: Record = result.found
        if part == "export":
            exports.written[way] = figures.pop("path")
        if "seconds" in figures:
            seconds, cpu = figures["seconds"], figures["cpu_seconds"]
            print(f"  {seconds:.2f} s, of the CPU {cpu:.2f} s", flush=True)
        return figures


def _processes(name: str, parts: Sequence[str], rounds: int) -> list[Process]:
    """The processes of a network, in order; loading needs an export, which is not timed alone."""
    found = []
    for part in parts:
        if part == "load" and "export" not in parts:
            found += [(name, "export", way) for way in first_calls.PARTS["export"].ways]
        one = first_calls.PARTS[part]
        found += [(name, part, way) for way in one.ways] * (rounds if one.repeats else 1)
    return found


def _usual(process: Process) -> float:
    return first_calls.PARTS[process[1]].seconds


def _figures(
    name: str, part: str, rounds: int, exports: Exports, schedule: Schedule
) -> dict[str, list[Record]]:
    """{way: the figures of its processes}, which take turns."""
    one = first_calls.PARTS[part]
    found: dict[str, list[Record]] = {way: [] for way in one.ways}
    for _ in range(rounds if one.repeats else 1):
        for way in one.ways:
            if part == "load" and way not in exports.written:
                schedule.run((name, "export", way), exports)
            found[way].append(schedule.run((name, part, way), exports))
    return found


def _rows(part: first_calls.Part, figures: dict[str, list[Record]]) -> dict[str, Record]:
    """{way: {figure: its median, and its ratio to that of the first way, round by round}}."""
    base = figures[next(iter(figures))]
    rows: dict[str, Record] = {}
    for way, of_way in figures.items():
        rows[way] = {}
        for key in of_way[0]:
            values = [one[key] for one in of_way]
            bound = part.bounds.get(way) if key in ("seconds", "nodes") else None
            ratios = timing.ratios(values, [one[key] for one in base], bound)
            rows[way][key] = {"median": round(statistics.median(values), 3), **ratios}
    return rows


def _lines(name: str, part: str, rows: dict[str, Record]) -> list[str]:
    """What is printed once a part of a network is measured."""
    title, base = first_calls.PARTS[part].title, next(iter(rows))
    lines = []
    for way, figures in rows.items():
        for key, (unit, of_what) in FIGURES.items():
            if key in figures and way != base:
                one = figures[key]
                lines.append(
                    f"{name}, {title}{of_what}: {way} {one['median']} {unit}, "
                    f"{one['ratio']} × {base}"
                )
    return lines


def table(found: dict[str, Record]) -> str:
    """All figures as a Markdown table."""
    lines = [
        "| network | what | figure | ratio | quartiles | bound | CPU s | CPU ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, parts in found.items():
        for part, rows in parts.items():
            title = first_calls.PARTS[part].title
            for way, figures in rows.items():
                cpu = figures.get("cpu_seconds", {"median": "", "ratio": ""})
                for key, (unit, of_what) in FIGURES.items():
                    if key not in figures:
                        continue
                    one = figures[key]
                    low, high = one["ratio_quartiles"]
                    last = (cpu["median"], cpu["ratio"]) if key == "seconds" else ("", "")
                    lines.append(
                        f"| {name} | {title}{of_what}: {way} | {one['median']} {unit} "
                        f"| {one['ratio']} | {low} to {high} | {one['bound'] or ''} "
                        f"| {last[0]} | {last[1]} |"
                    )
    return "\n".join(lines)
