"""Runs the cells of an `Examination`: trains the network unless it exists, and tests it."""

import gc
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfgrad.errors import NonFiniteError
from tfgrad.internal import files

from ..schema import ACCURACY, Cell, Examined
from . import density_tests, map_tests
from .bench import Bench, Found

# The names are those in the declarations of experiments, and thereby in the records of their cells.
TESTS: Mapping[str, Callable[..., Found]] = {
    "gan": density_tests.gan,
    "samples": density_tests.samples,
    "denoised": density_tests.denoised,
    "density": density_tests.density,
    "noise": density_tests.noise,
    "pixels": density_tests.pixels,
    "gradients": density_tests.gradients,
    "energy": density_tests.energy,
    "trace": density_tests.trace,
    "coupling": density_tests.coupling,
    "perturbation": map_tests.perturbation,
    "flip": map_tests.flip,
    "retraining": map_tests.retraining,
    "labels": map_tests.labels,
    "maps": map_tests.maps,
}


def run_cell(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Train one network, unless it exists, and run the experiment's tests on it.

    Returns:
        Accuracy, the numbers of the tests, and seconds; or the reason of a failed training. Arrays
        for pictures are written to WORK_DIR/images.
    """
    keras.backend.clear_session()
    gc.collect()
    row: Examined = cell.row
    start = time.perf_counter()
    try:
        learned = bench.network(row.network(cell.seed), row.epoch)
    except NonFiniteError as error:
        return {"failed": str(error), "seconds": round(time.perf_counter() - start, 2)}
    start = time.perf_counter()
    record: dict[str, Any] = {ACCURACY: bench.accuracy(learned)}
    pictures: dict[str, np.ndarray] = {}
    for name, arguments in bench.experiment.tests.items():
        found, drawn = TESTS[name](bench, learned, cell.seed, **row.asked(), **arguments)
        record |= found
        pictures |= drawn
    if pictures:
        directory = files.make_directory(os.path.join(bench.work_dir, "images"))
        arrays: Any = pictures
        with files.replaced(os.path.join(directory, f"{cell.id}.npz"), ".npz") as unfinished:
            np.savez_compressed(unfinished, **arrays)
    record["trained"] = learned.record.get("epochs", [])[-1:]
    return record | {"seconds": round(time.perf_counter() - start, 2)}
