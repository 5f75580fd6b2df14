"""Run the zoo: every model in a process of its own, a JSON record for each, and a table.

    python -m tools.zoo --out=docs/results/zoo
    python -m tools.zoo --only=ViT,Swin          # models whose names contain one of these
    python -m tools.zoo --recorded --keep        # the table of the records that there are

A run that was interrupted resumes: a record is kept if the sources of tfgrad and of the zoo and the
versions of the packages are the same; with --keep, whatever the sources were. Models whose process
died run again.

Exit codes: 0 all models do what is expected of them, 1 not all, 2 usage.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import importlib.metadata
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from . import models, page, verdicts
from .entries import ENTRIES, Entry

ROOT = pathlib.Path(__file__).parent.parent.parent
SOURCES = ("tfgrad", "tools/zoo", "apps/common")
MEMORY = 16 * 2**30


def main() -> None:
    """Run what has no record yet, then write the table."""
    arguments = _arguments()
    models.load_all()
    chosen = [e for name, e in ENTRIES.items() if _matches(name, arguments.only)]
    if not chosen:
        raise SystemExit(f"--only: got {arguments.only!r}; expected parts of {', '.join(ENTRIES)}.")
    folder = pathlib.Path(arguments.records)
    folder.mkdir(parents=True, exist_ok=True)
    state, begun = _digest(), time.time()
    records = {entry.name: _kept(entry, folder, state, arguments.keep) for entry in chosen}
    todo = [entry for entry in chosen if records[entry.name] is None]
    if arguments.recorded:
        missing, todo = [entry.name for entry in todo], []
        chosen = [entry for entry in chosen if entry.name not in missing]
        print(f"no record of {len(missing)} models: {', '.join(missing)}")
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        runs = {pool.submit(_run, e, folder, state, arguments.timeout): e for e in todo}
        try:
            for number, done in enumerate(concurrent.futures.as_completed(runs), 1):
                entry, record = runs[done], done.result()
                records[entry.name] = record
                wrong = verdicts.wrong(entry, record)
                left = (time.time() - begun) / number * (len(todo) - number) / 60
                print(
                    f"{number} of {len(todo)}: {entry.name}: {'; '.join(wrong) or 'as expected'} "
                    f"({record['seconds']:.0f} s; about {left:.0f} min left)",
                    flush=True,
                )
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    found = {entry.name: records[entry.name] or {} for entry in chosen}
    if not arguments.only:
        _write(arguments.out, chosen, found)
    failures = {e.name: verdicts.wrong(e, found[e.name]) for e in chosen}
    failures = {name: wrong for name, wrong in failures.items() if wrong}
    for name, wrong in failures.items():
        print(f"{name}: {'; '.join(wrong)}")
    print(f"{len(chosen)} models, {len(failures)} not as expected")
    raise SystemExit(1 if failures else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.zoo", description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="docs/results/zoo", help="prefix of the files written")
    parser.add_argument("--records", default="runs/zoo", help="folder of the models' records")
    parser.add_argument("--only", default="", help="parts of names, separated by commas")
    parser.add_argument("--jobs", type=int, default=2, help="number of processes at once")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for one model")
    parser.add_argument("--recorded", action="store_true", help="run nothing: what has a record")
    parser.add_argument("--keep", action="store_true", help="keep records of other sources")
    return parser.parse_args()


def _matches(name: str, only: str) -> bool:
    return any(part.strip().lower() in name.lower() for part in only.split(","))


def _digest() -> str:
    """A digest of the sources that a record depends on."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def versions(entry: Entry) -> dict[str, str]:
    """The versions of TensorFlow, Keras and the model's package."""
    names = {"tensorflow", "keras", entry.package}
    found = {}
    for name in sorted(names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _path(entry: Entry, folder: pathlib.Path) -> pathlib.Path:
    return folder / ("".join(c if c.isalnum() else "_" for c in entry.name) + ".json")


def _kept(entry: Entry, folder: pathlib.Path, state: str, keep: bool) -> dict[str, Any] | None:
    try:
        record = json.loads(_path(entry, folder).read_text())
    except (OSError, ValueError):
        return None
    same = keep or record.get("sources") == state
    same = same and "died" not in record  # it may have been stopped from outside
    return record if same and record.get("versions") == versions(entry) else None


def _run(entry: Entry, folder: pathlib.Path, state: str, timeout: float) -> dict[str, Any]:
    """The record of a model, made by a process of its own and written to a file."""
    start = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "record.json"
        command = [sys.executable, "-m", "tools.zoo.worker", entry.name, str(path)]
        command.append(str(os.getpid()))
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""} | dict(entry.environment)
        with open(pathlib.Path(scratch) / "log", "w+b") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, preexec_fn=_limit
            )
            try:
                ended = f"code {process.wait(timeout)}"
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                ended = f"no end after {timeout:.0f} s"
            log.seek(0)
            said = log.read().decode(errors="replace")[-1500:]
        record = json.loads(path.read_text()) if path.exists() else {"checks": {}, "at": "start"}
    if record["at"] is not None:
        record["died"] = f"at {record['at']}: {ended}"
        record["said"] = said
    record |= {
        "seconds": round(time.time() - start, 1),
        "sources": state,
        "versions": versions(entry),
    }
    _path(entry, folder).write_text(json.dumps(record, indent=1))
    return record


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def _write(out: str, chosen: list[Entry], records: dict[str, dict[str, Any]]) -> None:
    pathlib.Path(f"{out}.json").write_text(json.dumps(page.figures(chosen, records), indent=1))
    pathlib.Path(f"{out}.md").write_text(page.text(chosen, records))
    print(f"written to {out}.md and {out}.json")


if __name__ == "__main__":
    main()
