"""Times and memory, measured fairly: interleaved in one run, a process for each peak."""

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
    """How long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(
    functions: Mapping[str, Callable[[], Any]], rounds: int, what: str
) -> dict[str, list[float]]:
    """{name: seconds of every round}; the order turns by one each round."""
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
    """{name: row}, of functions that time themselves, interleaved, and what each is compared with.

    Args:
        functions: {name: a function that returns its seconds}.
        bare: {name: name of the function in whose units it is}.
        bounds: {name: the ratio that it should not exceed}.
        rounds: how often.
        what: the suite's name, for the progress line.
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
    """Markdown, of what `against` found."""
    lines = ["| what | ms | ratio | quartiles | bound |", "|---|---|---|---|---|"]
    for name, one in rows.items():
        low, high = one["ratio_quartiles"]
        lines.append(
            f"| {name} | {one['median_ms']} | {one['ratio']} | {low} to {high} "
            f"| {one['bound'] or ''} |"
        )
    return "\n".join(lines)


def row(times: Sequence[float], base: Sequence[float], bound: float | None) -> dict[str, Any]:
    """The median, and the ratios to `base` round by round."""
    ratios = np.asarray(times) / np.asarray(base)
    return {
        "median_ms": round(1e3 * float(np.median(times)), 2),
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_quartiles": [round(float(q), 3) for q in np.percentile(ratios, [25, 75])],
        "bound": bound,
    }


def memory(name: str) -> int:
    """The peak that `python -m apps.benchmark --memory_of=name` prints, in a process of its own."""
    command = [sys.executable, "-m", __package__, *sys.argv[1:], f"--memory_of={name}"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def peak_megabytes() -> int:
    """Of this process, or of the GPU where there is one."""
    if tf.config.list_physical_devices("GPU"):
        return round(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20)
    # Not getrusage: a child's maximum starts at what its parent held when it was forked.
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024)
