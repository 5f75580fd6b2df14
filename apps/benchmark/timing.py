"""Times, interleaved in one run, and peak memory, each in a process of its own.

What takes long is announced before it begins, and every figure is printed as soon as it exists.
"""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from ..common.progress import Counter


def seconds(function: Callable[[], Any]) -> float:
    """The duration of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compiled(
    functions: Mapping[str, Callable[[], Any]],
    base: str | None = None,
    timer: Callable[[Callable[[], Any]], float] = seconds,
) -> None:
    """Call every function twice: the first call compiles it, the second is a first figure.

    Args:
        functions: {name: function}, in the order in which they are compiled.
        base: Name of the function in whose units the figures are also printed.
        timer: Takes a function and returns the seconds of what is measured.
    """
    figures: dict[str, float] = {}
    for number, (name, function) in enumerate(functions.items(), 1):
        print(f"compiling {name} ({number} of {len(functions)})", flush=True)
        start = time.perf_counter()
        function()
        spent = time.perf_counter() - start
        figures[name] = timer(function)
        units = ""
        if base in figures and name != base:
            units = f", {figures[name] / figures[base]:.2f} × {base}"
        print(
            f"  {spent:.1f} s; one call after that {1e3 * figures[name]:.1f} ms{units}", flush=True
        )


def interleaved(
    functions: Mapping[str, Callable[[], Any]], rounds: int, what: str
) -> dict[str, list[float]]:
    """{name: seconds of every round} of compiled functions; the order rotates by one each round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    order, counter = itertools.cycle(functions), Counter(f"{what}: round", rounds)
    for done in range(rounds):
        for _ in functions:
            name = next(order)
            times[name].append(seconds(functions[name]))
        next(order)
        counter.done(done + 1)
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
    compiled(functions, timer=lambda function: function())
    counter = Counter(f"{what}: round", rounds)
    for done in range(rounds):
        for name, function in functions.items():
            times[name].append(function())
        counter.done(done + 1)
    return shown(
        {name: row(times[name], times[bare.get(name, name)], bounds.get(name)) for name in times}
    )


def shown(rows: dict[str, Any]) -> dict[str, Any]:
    """The rows, once their medians are printed."""
    for name, one in rows.items():
        print(f"{name}: {one['median_ms']} ms, ratio {one['ratio']}", flush=True)
    return rows


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
    return {"median_ms": round(1e3 * float(np.median(times)), 2), **ratios(times, base, bound)}


def ratios(values: Sequence[float], base: Sequence[float], bound: float | None) -> dict[str, Any]:
    """The median and quartiles of the ratios to `base`, round by round."""
    every = np.asarray(values) / np.asarray(base)
    return {
        "ratio": round(float(np.median(every)), 3),
        "ratio_quartiles": [round(float(q), 3) for q in np.percentile(every, [25, 75])],
        "bound": bound,
    }


class Outcome(NamedTuple):
    """What a process printed: `found`, from JSON, if its exit code is 0; else its messages."""

    code: int
    found: Any
    messages: str


def of_new_process(*flags: str) -> Outcome:
    """This command in a new process, with more flags; what it finds is its last line, in JSON."""
    command = [sys.executable, "-m", __package__, *sys.argv[1:], *flags]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    if run.returncode:
        return Outcome(run.returncode, None, run.stderr.strip() or "no message")
    return Outcome(0, json.loads(run.stdout.splitlines()[-1]), "")


def memory(name: str) -> int | None:
    """The peak memory, in MB, that this command prints with --memory_of=name in a new process.

    None if that process fails, whose reason is printed; the other figures are kept.
    """
    print(f"peak memory of {name}: ", end="", flush=True)
    code, peak, messages = of_new_process(f"--memory_of={name}")
    if code:
        print(f"unknown (exit code {code}: {messages.splitlines()[-1]})", flush=True)
        return None
    print(f"{peak} MB", flush=True)
    return peak


def peak_megabytes() -> int:
    """The peak memory of this process, or of the GPU where there is one."""
    if tf.config.list_physical_devices("GPU"):
        return round(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20)
    # Not getrusage: a child's maximum starts at what its parent held when it was forked.
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024)
