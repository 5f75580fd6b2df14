"""The range of the images that an exported model takes, found or given."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras

from tfgrad import models
from tfgrad.errors import ImageRangeWarning

_TOLERANCE = 0.02  # of the range's width
UNKNOWN = (
    "the range of the pixels that the model takes is not known: nothing in it scales them; "
    "image_range= of export.save tells it"
)


def known(
    network: keras.Model,
    given: tuple[float, float] | None,
    preprocess: Callable[..., Any] | None = None,
) -> tuple[float, float] | None:
    """The range that was given, or else the one that the network's first operations tell.

    Args:
        network: Network of one image input.
        given: (black, white) as the caller gave it, or None.
        preprocess: What runs before the network.

    Warns:
        ImageRangeWarning: Both are known, and differ.
    """
    found = models.image_range(network, preprocess)
    if given is None or found is None:
        return given or found
    wide = found[1] - found[0]
    if max(abs(given[i] - found[i]) for i in range(2)) > _TOLERANCE * wide:
        warnings.warn(
            f"image_range: got {given} for network {network.name!r}, whose first operations take "
            f"pixels in {found}; expected {found}. The range that was given is used; try it "
            "without image_range=.",
            ImageRangeWarning,
            stacklevel=3,
        )
    return given


def warn_unknown(network: keras.Model) -> None:
    """Warn that encoded images are not served.

    Warns:
        ImageRangeWarning: Always.
    """
    warnings.warn(
        f"image_range: got None for network {network.name!r}, which does not tell the range of its "
        "pixels, so that the signature 'encoded' is left out; expected the values of black and "
        "white in the images that it was trained on. Try image_range=(0, 1), (0, 255) or (-1, 1).",
        ImageRangeWarning,
        stacklevel=3,
    )
