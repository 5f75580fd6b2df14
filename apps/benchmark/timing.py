"""Times, interleaved in one run, and peak memory, each in a process of its own."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def seconds(function: Callable[[], Any]) -> float:
    """The duration of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(
    functions: Mapping[str, Callable[[], Any]], rounds: int, what: str
) -> dict[str, list[float]]:
    """{name: seconds of every round}; the order is rotated by one each round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    order = itertools.cycle(functions)
    for function in functions.values():
        seconds(function)
    for done in range(rounds):
        for _ in functions:
            name = next(order)
            times[name].append(seconds(functions[name]))
        next(order)
        print(f"\r{what}: round {done + 1} of {rounds}", end="", flush=True)
    print()
    return times


def against(
    functions: Mapping[str, Callable[[], float]],
    bare: Mapping[str, str],
    bounds: Mapping[str, float],
    rounds: int,
    what: str,
) -> dict[str, Any]:
    """{name: row} of functions that time themselves, each compared with another, interleaved.

    Args:
        functions: {name: function that returns its seconds}.
        bare: {name: name of the function in whose units the ratio is}.
        bounds: {name: ratio that should not be exceeded}.
        rounds: Number of timed rounds.
        what: Name of the suite, for the progress line.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for done in range(rounds):
        for name, function in functions.items():
            times[name].append(function())
        print(f"\r{what}: round {done + 1} of {rounds}", end="", flush=True)
    print()
    return {name: row(times[name], times[bare.get(name, name)], bounds.get(name)) for name in times}


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows that `against` returns as a Markdown table."""
    lines = ["| what | ms | ratio | quartiles | bound |", "|---|---|---|---|---|"]
    lines += [f"| {name} {cells(one)} |" for name, one in rows.items()]
    return "\n".join(lines)


def cells(row: Mapping[str, Any]) -> str:
    """The cells of a row in a Markdown table: ms, ratio, quartiles, bound."""
    low, high = row["ratio_quartiles"]
    return f"| {row['median_ms']} | {row['ratio']} | {low} to {high} | {row['bound'] or ''}"


def row(times: Sequence[float], base: Sequence[float], bound: float | None) -> dict[str, Any]:
    """The median time, and the median and quartiles of the ratios to `base`, round by round."""
    ratios = np.asarray(times) / np.asarray(base)
    return {
        "median_ms": round(1e3 * float(np.median(times)), 2),
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_quartiles": [round(float(q), 3) for q in np.percentile(ratios, [25, 75])],
        "bound": bound,
    }


def memory(name: str) -> int:
    """The peak memory, in MB, that this command prints with --memory_of=name in a new process."""
    command = [sys.executable, "-m", __package__, *sys.argv[1:], f"--memory_of={name}"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def peak_megabytes() -> int:
    """The peak memory of this process, or of the GPU where there is one."""
    if tf.config.list_physical_devices("GPU"):
        return round(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20)
    # Not getrusage: a child's maximum starts at what its parent held when it was forked.
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024)
