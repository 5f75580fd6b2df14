"""Flags of the tests that remove pixels, in both suites."""

import math

from absl import flags

from tfgrad.errors import ArgumentError
from tfgrad.evaluation.map_tests import pixel_perturbation

from ..common import shared_flags

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define which pixels are removed, by what they are replaced, and what is scored."""
    flags.DEFINE_list(
        "fractions",
        list(map(str, pixel_perturbation.FRACTIONS)),
        "Fractions of the pixels to remove.",
    )
    flags.DEFINE_enum("remove", "least", ("least", "most"), "Which pixels are removed first.")
    flags.DEFINE_enum(
        "score",
        None,
        list(pixel_perturbation.SCORES),
        "Score of the pixels test; default: accuracy, with --methods change of the top "
        "probability.",
    )
    flags.DEFINE_float(
        "fill",
        None,
        "Value of removed pixels; default: each image's mean colour, in class_flip black.",
    )


def check() -> None:
    """Check the flags.

    Raises:
        ArgumentError: --fractions or --fill is no such number.
    """
    fractions()
    if FLAGS.fill is not None and not math.isfinite(FLAGS.fill):
        raise ArgumentError(f"--fill: got {FLAGS.fill}; expected a finite number.")


def fractions() -> list[float]:
    """The fractions of the pixels to remove."""
    return shared_flags.numbers("fractions", float, highest=1, empty=False)


def fill() -> float | str:
    """The value of removed pixels in the pixels test."""
    return pixel_perturbation.IMAGE_MEAN if FLAGS.fill is None else FLAGS.fill
