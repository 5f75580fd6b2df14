"""Tests of saliency maps, a row for each method: those of --methods, on every network."""

import datetime
import functools
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from tfgrad import data, evaluation, figures, saliency
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.evaluation import Comparison, Measurement
from tfgrad.evaluation.comparison.compare import TESTS as KNOWN_TESTS
from tfgrad.evaluation.comparison.result import CONTROL, write_csv

from . import removal_flags
from .networks import NetworkUnderTest
from .report import Report
from .suite import Networks, Suite, no_rehearsal

FLAGS = flags.FLAGS
TESTS = tuple(KNOWN_TESTS)
DEFAULT = ("pixels", "pixels_most", "randomisation")
SCORE = "change of the top probability"
FILES = ("methods.png", "methods.csv")

Found = Mapping[str, Comparison]


def define_flags() -> None:
    """Define the flags of these tests."""
    flags.DEFINE_list(
        "methods",
        None,
        f"Saliency methods to test, instead of networks: {', '.join(saliency.METHODS)}.",
    )
    flags.DEFINE_integer(
        "from", 8, "Class of the images in class_flip (with --methods).", lower_bound=0
    )
    flags.DEFINE_integer(
        "to", 3, "Class that class_flip turns them into (with --methods).", lower_bound=0
    )
    flags.DEFINE_enum(
        "order",
        "cascading",
        ("cascading", "independent"),
        "Whether randomisation re-initialises all layers from the output down to one, or that one "
        "alone (with --methods).",
    )
    flags.DEFINE_integer(
        "images",
        64,
        "Number of images for tests that do not use the whole data set (with --methods).",
        lower_bound=1,
    )


def check(tests: Sequence[str], names: Collection[str]) -> None:
    """Check the flags before anything is computed; see `network_tests.check`."""
    if not FLAGS.methods:
        raise ArgumentError(
            "--methods: got none; expected one or more; try fullgrad,input_gradient."
        )
    for name in FLAGS.methods:
        saliency.get(name)
    if FLAGS.baseline is not None:
        raise ArgumentError(
            f"--baseline: got {FLAGS.baseline!r} with --methods; expected one of the two, because "
            "it belongs to tests of networks."
        )
    if "class_flip" in tests and FLAGS["from"].value == FLAGS.to:
        raise ArgumentError(f"--from, --to: got {FLAGS.to} twice; expected different classes.")


def check_images(tests: Sequence[str], images: data.Dataset) -> None:
    """Check that the images have the classes that flags name."""
    if "class_flip" not in tests:
        return
    if FLAGS["from"].value not in images.labels:
        raise ArgumentError(
            f"--from: got class {FLAGS['from'].value}; expected one of "
            f"{sorted(map(int, np.unique(images.labels)))}, the classes of the {len(images)} "
            f"images of {images.name!r}."
        )
    if FLAGS.to >= len(images.classes):
        raise ArgumentError(
            f"--to: got class {FLAGS.to}; expected 0 to {len(images.classes) - 1}, the classes of "
            f"{images.name!r}."
        )


def run(tests: Sequence[str], networks: Networks, images: data.Dataset) -> Report:
    """Run the tests on the methods and all networks.

    Raises:
        ModelError: No method of --methods has a result in any test.
    """
    found: dict[str, Comparison] = {}
    for name, tested in networks.items():
        found[name] = evaluation.compare(
            tested.network,
            tested.batches(images),
            FLAGS.methods,
            tests,
            images=FLAGS.images,
            options=_options(tests, tested),
            seed=FLAGS.seed,
            on_progress=_progress(name),
        )
    if not any(_works(result) for result in found.values()):
        raise ModelError(
            f"--methods: got {','.join(FLAGS.methods)}; expected one that a test can evaluate; "
            f"none has a result: {_first_failure(found.values())}"
        )
    tables = _tables(found)
    return Report(
        tables=tables,
        titles={test: next(iter(rows.values())).name for test, rows in tables.items()},
        content={"models": {model: result.to_json() for model, result in found.items()}},
        summaries=[f"Maps of {model}\n\n{result.markdown()}" for model, result in found.items()],
        row="method",
        write_more=functools.partial(_write, found),
    )


def _tables(found: Found) -> dict[str, dict[str, Measurement]]:
    """{test: {row: measurement}}; a row is a method, of a model where there are several."""
    rows: dict[str, dict[str, Measurement]] = {}
    for model, result in found.items():
        for test, measured in result.measurements.items():
            for method, one in measured.items():
                name = method if len(found) == 1 else f"{model}, {method}"
                rows.setdefault(test, {})[name] = one
    return rows


def _write(found: Found, directory: str) -> None:
    """Write the figure and the records of all comparisons."""
    panels = {
        heading if len(found) == 1 else f"{model}: {heading}": scores
        for model, result in found.items()
        for heading, scores in result.panels().items()
    }
    picture, records = (os.path.join(directory, name) for name in FILES)
    figures.bars(picture, panels, control=CONTROL)
    rows = [{"model": model, **row} for model, result in found.items() for row in result.rows()]
    write_csv(records, rows, "model")


def _options(tests: Sequence[str], tested: NetworkUnderTest) -> dict[str, dict[str, Any]]:
    """{test: options}, as flags name them."""
    draws = {} if FLAGS.draws is None else {"draws": FLAGS.draws}
    of_pixels = {
        "fractions": removal_flags.fractions(),
        "fill": removal_flags.fill(),
        "score": FLAGS.score or SCORE,
    }
    options = {
        "pixels": of_pixels | {"remove": FLAGS.remove},
        "pixels_most": of_pixels,
        "class_flip": {
            "source": FLAGS["from"].value,
            "to": FLAGS.to,
            "fill": tested.black if FLAGS.fill is None else FLAGS.fill,
        },
        "randomisation": {"order": FLAGS.order, **draws},
        "bias_sensitivity": draws,
    }
    return {test: options[test] for test in tests if test in options}


def _progress(model: str) -> Callable[[int, int, str], None]:
    """A function that prints which test of which method is next, and the time left."""
    began = time.monotonic()

    def show(done: int, total: int, what: str) -> None:
        left = ""
        if done:
            seconds = round((time.monotonic() - began) / done * (total - done))
            left = f", about {datetime.timedelta(seconds=seconds)} left"
        print(f"{model}: {done + 1} of {total}: {what}{left}", flush=True)

    return show


def _works(result: Comparison) -> bool:
    """Whether a method that was asked for has a result."""
    return any(method in FLAGS.methods for row in result.measurements.values() for method in row)


def _first_failure(results: Iterable[Comparison]) -> str:
    return next(
        reason
        for result in results
        for row in result.failures.values()
        for method, reason in row.items()
        if method in FLAGS.methods
    )


SUITE = Suite(
    tests=TESTS,
    default=DEFAULT,
    files=FILES,
    choose="maps; try with --methods",
    check=check,
    check_images=check_images,
    rehearse=no_rehearsal,
    run=run,
)
