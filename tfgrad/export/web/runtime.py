"""ONNX Runtime Web: a copy of its npm package, or the address where its files are published."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

from tfgrad.errors import ArgumentError

PUBLISHED = "published"
PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
# What the page loads: the runtime for WebAssembly, and its binary.
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
# Of these files of version VERSION; browsers do not run files that differ.
_INTEGRITY = {
    SCRIPT: "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    BINARY: "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}
_ADDRESS = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/dist/"


def placed(runtime: str | os.PathLike[str] | None, folder: str) -> dict[str, Any]:
    """What the page has to know of the runtime, once its copy is in the folder, if there is one.

    Args:
        runtime: A directory with the runtime's files, `PUBLISHED`, or None for the npm package that
            is installed in the working directory or above it, else as `PUBLISHED`.
        folder: The page's folder.

    Returns:
        {"version", "address", "integrity"}: `address` is relative to the page for a copy, and
        `integrity` None.

    Raises:
        ArgumentError: The directory lacks one of the files.
    """
    source = None if runtime == PUBLISHED else _given(runtime) if runtime else _installed()
    if source is None:
        return {"version": VERSION, "address": _ADDRESS, "integrity": dict(_INTEGRITY)}
    target = os.path.join(folder, PACKAGE)
    os.mkdir(target)
    # As .js: many servers do not know that .mjs is a script.
    shutil.copyfile(
        os.path.join(source, SCRIPT), os.path.join(target, f"{SCRIPT.removesuffix('.mjs')}.js")
    )
    shutil.copyfile(os.path.join(source, BINARY), os.path.join(target, BINARY))
    return {"version": _version(source), "address": f"{PACKAGE}/", "integrity": None}


def _given(runtime: str | os.PathLike[str]) -> str:
    """The directory of the files, of the package or of its `dist`."""
    path = os.fspath(runtime)
    for source in (path, os.path.join(path, "dist")):
        if _is_complete(source):
            return source
    raise ArgumentError(
        f"runtime: got {path!r}, which lacks {SCRIPT} or {BINARY}; expected the folder 'dist' of "
        f"the npm package {PACKAGE}; try npm install {PACKAGE}@{VERSION}, and "
        f"node_modules/{PACKAGE}/dist."
    )


def _installed() -> str | None:
    """The package's files, where Node would find them from the working directory."""
    directory = os.getcwd()
    while True:
        source = os.path.join(directory, "node_modules", PACKAGE, "dist")
        if _is_complete(source):
            return source
        if directory == os.path.dirname(directory):
            return None
        directory = os.path.dirname(directory)


def _is_complete(source: str) -> bool:
    return all(os.path.isfile(os.path.join(source, name)) for name in (SCRIPT, BINARY))


def _version(source: str) -> str:
    """The version of a copy; "of unknown version" where its package does not lie around it."""
    try:
        with open(os.path.join(source, os.pardir, "package.json"), encoding="utf-8") as file:
            return str(json.load(file)["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return "of unknown version"
