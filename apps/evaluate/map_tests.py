"""Tests of saliency maps, side by side: the methods of --methods on every network."""

import datetime
import os
import time

import numpy as np
from absl import flags

from tfgrad import evaluation, figures, saliency
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.evaluation import Measurement
from tfgrad.evaluation.comparison import compare
from tfgrad.evaluation.comparison.result import CONTROL, write_csv
from tfgrad.evaluation.map_tests import pixel_perturbation

from . import network_tests

FLAGS = flags.FLAGS
TESTS = tuple(compare.TESTS)
DEFAULT = ("pixels", "pixels_most", "randomisation")
SCORE = "change of the top probability"
FILES = ("methods.png", "methods.csv")


def define_flags():
    """What these tests take."""
    flags.DEFINE_list(
        "methods", None, f"Test maps by these methods: {', '.join(saliency.METHODS)}."
    )
    flags.DEFINE_integer("from", 8, "Of --methods: class_flip's class of images.", lower_bound=0)
    flags.DEFINE_integer("to", 3, "Of --methods: the one they are to turn into.", lower_bound=0)
    flags.DEFINE_enum(
        "order",
        "cascading",
        ("cascading", "independent"),
        "Of --methods: randomise all layers down to one, or that one alone.",
    )
    flags.DEFINE_integer(
        "images", 64, "Of --methods: so many, where a test is not of all.", lower_bound=1
    )


def check(tests, names):
    """Refuse wrong flags before anything is computed; see `network_tests.check`."""
    if not FLAGS.methods:
        raise ArgumentError("--methods: got none; name some, such as fullgrad,input_gradient.")
    for name in FLAGS.methods:
        saliency.get(name)
    if FLAGS.baseline is not None:
        raise ArgumentError("--baseline: belongs to tests of networks; leave --methods out.")
    if "class_flip" in tests and FLAGS["from"].value == FLAGS.to:
        raise ArgumentError(f"--from, --to: got {FLAGS.to} twice; expected different classes.")


def check_images(tests, images):
    """Refuse classes that these images do not have."""
    if "class_flip" not in tests:
        return
    if FLAGS["from"].value not in images.labels:
        raise ArgumentError(
            f"--from: got class {FLAGS['from'].value}; the {len(images)} images of "
            f"{images.name!r} are of {sorted(map(int, np.unique(images.labels)))}."
        )
    if FLAGS.to >= len(images.classes):
        raise ArgumentError(
            f"--to: got class {FLAGS.to}; {images.name!r} has {len(images.classes)}, so expected 0 "
            f"to {len(images.classes) - 1}."
        )


def run(tests, subjects, images):
    """{model: Comparison} of all that is asked.

    Raises:
        ModelError: no method of --methods has a result in any test.
    """
    found = {}
    for name, subject in subjects.items():
        found[name] = evaluation.compare(
            subject.network,
            subject.batches(images),
            FLAGS.methods,
            tests,
            images=FLAGS.images,
            options=_options(tests, subject),
            seed=FLAGS.seed,
            on_progress=_said(name),
        )
    if not any(_works(result) for result in found.values()):
        raise ModelError(f"--methods: none has a result. {_first_failure(found.values())}")
    return found


def tables(found):
    """{test: {row: measurement}}; a row is a method, of a model where there are several."""
    rows: dict[str, dict[str, Measurement]] = {}
    for model, result in found.items():
        for test, measured in result.measurements.items():
            for method, one in measured.items():
                name = method if len(found) == 1 else f"{model}, {method}"
                rows.setdefault(test, {})[name] = one
    return rows


def texts(found):
    """For each model, the table of methods × tests."""
    return [f"Maps of {model}\n\n{result.markdown()}" for model, result in found.items()]


def write(directory, found):
    """The picture and the records of all comparisons."""
    panels = {
        heading if len(found) == 1 else f"{model}: {heading}": scores
        for model, result in found.items()
        for heading, scores in result.panels().items()
    }
    picture, records = (os.path.join(directory, name) for name in FILES)
    figures.bars(picture, panels, control=CONTROL)
    rows = [{"model": model, **row} for model, result in found.items() for row in result.rows()]
    write_csv(records, rows, "model")


def _options(tests, subject):
    """What flags say of each test."""
    draws = {} if FLAGS.draws is None else {"draws": FLAGS.draws}
    of_pixels = {
        "fractions": network_tests.numbers("fractions", highest=1),
        "fill": pixel_perturbation.IMAGE_MEAN if FLAGS.fill is None else FLAGS.fill,
        "score": FLAGS.score or SCORE,
    }
    options = {
        "pixels": of_pixels | {"remove": FLAGS.remove},
        "pixels_most": of_pixels,
        "class_flip": {
            "source": FLAGS["from"].value,
            "to": FLAGS.to,
            "fill": subject.black if FLAGS.fill is None else FLAGS.fill,
        },
        "randomisation": {"order": FLAGS.order, **draws},
        "bias_sensitivity": draws,
    }
    return {test: options[test] for test in tests if test in options}


def _said(model):
    """Prints which pair is next, and how long the rest will take."""
    began = time.monotonic()

    def say(done, total, what):
        left = ""
        if done:
            seconds = round((time.monotonic() - began) / done * (total - done))
            left = f", about {datetime.timedelta(seconds=seconds)} left"
        print(f"{model}: {done + 1} of {total}: {what}{left}", flush=True)

    return say


def _works(result):
    """Whether a method that was asked for has a result."""
    return any(method in FLAGS.methods for row in result.measurements.values() for method in row)


def _first_failure(results):
    return next(
        reason
        for result in results
        for row in result.failures.values()
        for method, reason in row.items()
        if method in FLAGS.methods
    )
