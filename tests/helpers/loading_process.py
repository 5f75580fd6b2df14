"""Loads files in processes of their own, which may die or hang, and says what became of each."""

import contextlib
import json
import os
import selectors
import subprocess
import sys


def outcomes(paths, seconds):
    """[(result, seconds, MiB)] of loading each path; "died" and "hung" are results, too."""
    process, found = None, []
    try:
        for path in paths:
            process = process or _started()
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            told = _line(process, seconds)
            if isinstance(told, dict):
                found.append((told["result"], told["seconds"], told["peak"]))
            else:
                found.append((told, seconds, 0))
                process.kill()
                _ended(process)
                process = None
    finally:
        if process is not None:
            _ended(process)
    return found


def _ended(process):
    """Wait for a process that gets no further paths, and close its pipes."""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.wait()
    process.stdout.close()


def _started():
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.mutated_files"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert "ready" in _line(process, 300)
    return process


def _line(process, seconds):
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(seconds):
            return "hung"
    line = process.stdout.readline()
    return json.loads(line) if line else f"died ({process.wait()})"
