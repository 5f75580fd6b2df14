"""The values of black and white in the images that a network takes: flag, record or network."""

import sys
from collections.abc import Sequence

import keras
import numpy as np
from absl import flags

from tfgrad import models
from tfgrad.errors import ArgumentError

FLAGS = flags.FLAGS
UNIT = (0.0, 1.0)

Range = tuple[float, float]


def define(of: str = "--model") -> None:
    """Define --image_range.

    Args:
        of: The flags whose network it describes.
    """
    flags.DEFINE_list(
        "image_range",
        None,
        f"LOW,HIGH: the values of black and white in the images that {of} takes; default: what a "
        "record beside its file or its first layers tell.",
    )


def given() -> Range | None:
    """The value of --image_range, or None.

    Raises:
        ArgumentError: It is not two numbers, the lower first.
    """
    if FLAGS.image_range is None:
        return None
    try:
        low, high = (float(v) for v in FLAGS.image_range)
        if not -np.inf < low < high < np.inf:
            raise ValueError
    except ValueError as error:
        raise ArgumentError(
            f"--image_range: got {','.join(FLAGS.image_range)}; expected the values of black and "
            "white; try 0,1 or 0,255 or -1,1."
        ) from error
    return low, high


def known(name: str, network: keras.Model) -> Range:
    """The range that --image_range gives, or else the network tells.

    Args:
        name: Where the network came from.
        network: Network of images.

    Raises:
        ArgumentError: Neither of them tells, or they contradict one another.
    """
    asked, found = given(), models.image_range(network)
    if asked is None and found is None:
        raise missing(name)
    if asked is not None and found is not None and not np.allclose(asked, found, 0, found[1] / 50):
        print(
            f"--image_range: got {asked}, but the first layers of {name} take pixels in {found}; "
            "the flag is followed",
            file=sys.stderr,
        )
    return asked or found or UNIT


def missing(name: str) -> ArgumentError:
    """The error of a network whose range nothing tells."""
    return ArgumentError(
        f"--image_range: got none, and {name} does not tell the range of its pixels: nothing in it "
        "scales them; expected LOW,HIGH, the values of black and white in the images that it was "
        "trained on; try 0,1 or 0,255 or -1,1."
    )


def as_statistics(found: Range, channels: int) -> Sequence[Sequence[float]] | None:
    """(mean, std) that normalise pixels in [0, 1] to a range; None for [0, 1] itself."""
    low, high = found
    if found == UNIT:
        return None
    return [-low / (high - low)] * channels, [1 / (high - low)] * channels
