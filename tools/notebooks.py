"""Execute the notebooks from scratch, and keep them with their outputs.

    python -m tools.notebooks                      # all of notebooks/
    python -m tools.notebooks serve_and_use ...    # some of them
    python -m tools.notebooks --check              # execute and check, write nothing

A notebook is its own source: cells are edited in Jupyter or as text, and the outputs that are
committed are those of this command. Each one runs in a kernel of its own, in an empty directory,
without a GPU. What a second run or another machine would change is removed (timings, versions,
metadata of editors), and a notebook that fails, grows beyond 300 KB or shows a path of this machine
is not written.

Exit codes: 0 all were executed, 1 one was not, 2 usage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Iterator

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from tfgrad.internal import files

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
LIMIT_BYTES = 300_000
LIMIT_SECONDS = (
    600  # of a cell, on a busy machine; a notebook takes less than a minute on an idle one
)

# What runs on no other machine: absolute paths, addresses of objects.
_LOCAL = re.compile(
    r"(?<![\w.:/])/(?:home|root|tmp|var|usr|opt|mnt|work|Users|private)/[\w.-]+|0x[0-9a-f]{8,}"
)
# What TensorFlow writes at its start, before any level of logging counts.
_STARTED = re.compile(
    r"^(?:WARNING: All log messages before absl::InitializeLog|[IE]\d{4} .*(?:cuda|cpu_)).*\n?",
    re.MULTILINE,
)
_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",  # the numbers in the text are those of a CPU
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}


def names() -> list[str]:
    """The names of all notebooks, without their ending."""
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def read(name: str) -> NotebookNode:
    """A notebook as it stands.

    Args:
        name: Its name without the ending.
    """
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(notebook: NotebookNode, directory: str | os.PathLike[str]) -> NotebookNode:
    """A notebook with the outputs of this run alone, without what changes from run to run.

    Args:
        notebook: It stays as it is.
        directory: The kernel's working directory.

    Raises:
        CellExecutionError: A cell raised an error.
        CellTimeoutError: A cell ran for longer than `LIMIT_SECONDS`.
        DeadKernelError: The kernel's process ended.
    """
    found = stripped(notebook)
    client = NotebookClient(
        found,
        timeout=LIMIT_SECONDS,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # not that the kernel listens on this machine's TCP
        resources={"metadata": {"path": os.fspath(directory)}},
    )
    # The kernel imports this checkout, whatever its working directory is.
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    client.execute(env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": paths})
    kept = stripped(found, outputs=True)
    kept.metadata["sources"] = digest(kept)
    return kept


def stripped(notebook: NotebookNode, outputs: bool = False) -> NotebookNode:
    """A copy with nothing but cells and the name of the kernel.

    Args:
        notebook: It stays as it is.
        outputs: Whether outputs stay, with text that was written in pieces as one.
    """
    cells = []
    for cell in notebook.cells:
        kept = {"id": cell.id, "cell_type": cell.cell_type, "metadata": {}, "source": cell.source}
        if cell.cell_type == "code":
            kept["execution_count"] = cell.execution_count if outputs else None
            kept["outputs"] = list(_outputs(cell)) if outputs else []
        cells.append(kept)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return nbformat.from_dict(content)


def digest(notebook: NotebookNode) -> str:
    """A hash of the code, which tells whether outputs are those of the cells above them."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def problems(notebook: NotebookNode) -> list[str]:
    """Why a notebook with outputs should not be committed; [] if nothing is wrong."""
    found = []
    if notebook.metadata.get("sources") != digest(notebook):
        found.append("cells were changed after they were executed; try make notebooks")
    for cell in notebook.cells:
        if local := _LOCAL.search(cell.source):
            found.append(f"cell {cell.id}: the path {local[0]!r} exists on one machine only")
        for output in cell.get("outputs", []):
            text = "\n".join(_texts(output))
            if output.output_type == "error":
                found.append(f"cell {cell.id}: {output.ename}: {output.evalue}")
            elif output.get("name") == "stderr":
                found.append(f"cell {cell.id}: writes to standard error: {text[:200]!r}")
            if local := _LOCAL.search(text):
                found.append(f"cell {cell.id}: shows {local[0]!r}, which changes")
    size = len(written(notebook).encode())
    if size > LIMIT_BYTES:
        found.append(f"it has {size} bytes; at most {LIMIT_BYTES} are kept")
    return found


def written(notebook: NotebookNode) -> str:
    """The text of a notebook's file."""
    return nbformat.writes(notebook, version=4) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Execute the notebooks that are asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names()))
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args(arguments)
    chosen = [pathlib.Path(name).stem for name in given.names] or names()
    if unknown := sorted({*chosen} - {*names()}):
        parser.error(f"NAME: got {', '.join(unknown)}; expected some of {', '.join(names())}.")
    return max([_run(name, keep=not given.check) for name in chosen])


def _run(name: str, keep: bool) -> int:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        try:
            notebook = executed(read(name), directory)
            wrong = problems(notebook)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            wrong = [re.sub(r"\x1b\[[\d;]*m", "", str(error))]
    seconds = time.perf_counter() - started
    if wrong:
        print(f"{name}: not written, after {seconds:.0f} s", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    text = written(notebook)
    if keep:
        files.write_text(FOLDER / f"{name}.ipynb", text)
    print(f"{name}: {seconds:.0f} s, {len(text.encode()) / 1000:.0f} KB", flush=True)
    return 0


def _outputs(cell: NotebookNode) -> Iterator[dict[str, object]]:
    """The outputs of a cell without their metadata; pieces of one stream are joined."""
    last: dict[str, object] = {}
    for output in cell.outputs:
        kept = {key: value for key, value in output.items() if key != "metadata"}
        if output.output_type == "stream":
            kept["text"] = _STARTED.sub("", output.text)
            if not kept["text"]:
                continue
            if last.get("name") == output.name:
                last["text"] = f"{last['text']}{kept['text']}"
                continue
        if output.output_type in ("display_data", "execute_result"):
            kept["metadata"] = {}
        last = kept
        yield kept


def _texts(output: NotebookNode) -> Iterator[str]:
    """The texts of an output, without pictures."""
    if output.output_type == "stream":
        yield output.text
    for kind, content in output.get("data", {}).items():
        if kind.startswith("text/"):
            yield re.sub(r"data:image/png;base64,[\w+/=]+", "", content)


if __name__ == "__main__":
    sys.exit(main())
