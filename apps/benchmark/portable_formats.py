"""Explanations in other runtimes: errors against the live map, sizes of files, and times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfgrad import export, saliency
from tfgrad.errors import ModelError, PortabilityWarning
from tfgrad.internal.served_files import METADATA

from ..common import architectures

NETWORKS = (
    "vgg9",
    "ResNet50V2",
    "MobileNetV2",
    "MobileNetV3Large",
    "EfficientNetV2B0",
    "DenseNet121",
    "ConvNeXtTiny",
    "vit",
)
METHODS: dict[str, dict[str, Any]] = {
    "input_gradient": {},
    "fullgrad": {},
    "gradcam": {},
    "integrated_gradients": {"steps": 8},
}
FORMATS = ("litert", "onnx", "openvino")
BOUND = 1e-4
_TENSORFLOW = "tensorflow"
_WORKER = os.path.join(os.path.dirname(__file__), "runtime_worker.py")


def measured(
    names: Sequence[str],
    network: Callable[[str], keras.Model],
    images: Any,
    rounds: int,
    written: Callable[[dict[str, Any]], Any],
) -> tuple[dict[str, Any], str]:
    """(what is recorded, the table).

    Args:
        names: Names of networks.
        network: Makes one by name.
        images: Images, of which each request takes the first.
        rounds: Number of requests to each runtime, in turn.
        written: Takes the record after each network.
    """
    record: dict[str, Any] = {"portable": {}}
    for name in names:
        keras.utils.set_random_seed(0)
        model = architectures.randomised(network(name))
        with tempfile.TemporaryDirectory() as directory:
            record["portable"][name] = _of_network(
                name, model, np.asarray(images[:1]), directory, rounds
            )
        written(record)
    return record, _table(record["portable"])


def _of_network(
    name: str, model: keras.Model, image: np.ndarray, directory: str, rounds: int
) -> dict[str, Any]:
    methods = [saliency.get(m)(model, **options) for m, options in METHODS.items()]
    print(f"{name}: exporting {', '.join(METHODS)} as {', '.join(FORMATS)}", flush=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PortabilityWarning)
        try:
            path = export.save(
                model,
                os.path.join(directory, "model"),
                methods,
                image_range=(0, 1),
                outputs="exclusive",
                warmup=False,
                formats=("saved_model", *FORMATS),
                example=image,
            )
        except ModelError as error:
            return {"error": str(error)}
    with open(os.path.join(path, METADATA), encoding="utf-8") as file:
        said = json.load(file)["formats"]
    found: dict[str, Any] = {}
    for method in methods:
        target, live = _explained(method, image)
        given = os.path.join(directory, f"{method.name}.npz")
        np.savez(given, image=image, target=target)
        had = [f for f in FORMATS if method.name in said[f]["files"]]
        found[method.name] = _of_method(path, method.name, had, given, live, rounds)
        for one in FORMATS:
            if one not in had:
                found[method.name][one] = {"left_out": said[one]["left_out"][method.name]}
        for one in had:
            files = said[one]["files"][method.name]
            sizes = [os.path.getsize(os.path.join(path, file)) for file in files]
            found[method.name][one]["megabytes"] = round(sum(sizes) / 1e6, 1)
            cell = found[method.name][one]
            print(
                f"{name} {method.name} {one}: error {cell['error']:.1e}, "
                f"{cell['megabytes']} MB, {cell['ms']} ms, {cell['ratio']} × TensorFlow",
                flush=True,
            )
    return found


def _explained(method: saliency.Method, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(class [1], its map): the predicted class, or the next likely one whose map is not all 0.

    A map of 0 everywhere, which Grad-CAM's ReLU leaves of some classes, compares nothing.
    """
    logits = np.asarray(method.network(image, training=False))[0]
    for target in np.argsort(-logits).astype(np.int32):
        live = np.asarray(method(image, [target]))
        if live.any():
            return np.asarray([target]), live
    raise ModelError(f"{method.name}: got a map of 0 for every class; expected another network.")


def _of_method(
    path: str, method: str, had: list[str], given: str, live: np.ndarray, rounds: int
) -> dict[str, Any]:
    """Errors and times in each runtime, whose processes take turns."""
    workers = {name: _Worker(name, path, method, given) for name in (_TENSORFLOW, *had)}
    try:
        times: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                times[name].append(worker.milliseconds())
        found: dict[str, Any] = {}
        for name, worker in workers.items():
            error = np.abs(worker.outputs["saliency"] - live).max() / np.abs(live).max()
            ratios = np.asarray(times[name]) / np.asarray(times[_TENSORFLOW])
            found[name] = {
                "error": float(f"{error:.2e}"),
                "ms": round(float(np.median(times[name])), 1),
                "ratio": round(float(np.median(ratios)), 2),
                "without_tensorflow": worker.alone,
            }
        return found
    finally:
        for worker in workers.values():
            worker.close()


class _Worker:
    """A process that runs one signature in one runtime."""

    def __init__(self, runtime: str, path: str, method: str, given: str) -> None:
        self._runtime = runtime
        outputs = f"{given}.{runtime}.npz"
        command = [sys.executable, _WORKER, runtime, path, method, given, outputs]
        quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=quiet,
        )
        self.alone = json.loads(self._line())["without_tensorflow"]
        with np.load(outputs) as stored:
            self.outputs = dict(stored)

    def milliseconds(self) -> float:
        """The time of one more request."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line[0] in "{0123456789":  # runtimes write lines of their own
                return line
        raise RuntimeError(f"{self._runtime}: ended without an answer")


def _table(found: dict[str, Any]) -> str:
    lines = [
        "| network | method | " + " | ".join(FORMATS) + " | TensorFlow |",
        "|---|---|" + "---|" * (len(FORMATS) + 1),
    ]
    for name, methods in found.items():
        if "error" in methods:
            lines.append(f"| {name} | {methods['error']} |" + " |" * (len(FORMATS) + 1))
            continue
        for method, cells in methods.items():
            shown = [_cell(cells[one]) for one in FORMATS]
            lines.append(
                f"| {name} | {method} | "
                + " | ".join(shown)
                + f" | {cells[_TENSORFLOW]['ms']} ms |"
            )
    return "\n".join(lines)


def _cell(cell: dict[str, Any]) -> str:
    if "left_out" in cell:
        return f"– ({cell['left_out']})"
    return f"{cell['error']:.0e}, {cell['megabytes']} MB, {cell['ratio']}×"
