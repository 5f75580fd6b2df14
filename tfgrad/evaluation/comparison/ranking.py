"""The maps of the predicted classes, computed once for all tests that rank pixels by them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from tfgrad.errors import ArgumentError
from tfgrad.evaluation.comparison.compared_model import ComparedModel, image_bytes
from tfgrad.evaluation.comparison.methods import Candidate, Maps
from tfgrad.evaluation.map_tests.mapped_batches import mapped


class ChangingDataError(ArgumentError):
    """The images of the data change from pass to pass; this concerns every method alike."""


def ranking(
    compared: ComparedModel, candidate: Candidate, file: IO[bytes], shared: bool
) -> Callable[[], Any]:
    """A function that returns what ranks the pixels of all images.

    Args:
        compared: The model and the data.
        candidate: The method.
        file: An empty file for the maps.
        shared: Whether several tests ask; the maps are then computed once, at the first call.

    Returns:
        A function without arguments. It returns a function of (images, labels), or, if `shared`,
        the maps [n, H, W] in the file.
    """

    def of_question(x: Any, y: Any) -> Any:
        return candidate.maps(x, compared.question(x, y))

    if not shared:
        return lambda: of_question
    return functools.cache(functools.partial(_kept, compared, of_question, file))


def _kept(compared: ComparedModel, maps_of: Maps, file: IO[bytes]) -> np.ndarray:
    """The maps of all images, [n, H, W], in a file."""
    count, maps, digest = 0, np.zeros(0), hashlib.blake2b()
    file.seek(0)  # An earlier call that failed may have written something.
    file.truncate()
    for (x, found), _, _ in mapped(
        compared.read(),
        maps_of,
        0,
        compared.network,
        target=compared.asks,
        inputs=compared.inputs,
    ):
        before, maps = maps, found.numpy()
        if count and maps.dtype != before.dtype:
            raise ArgumentError(
                f"maps: got {maps.dtype} after {before.dtype}; expected one type in all batches, "
                "as values are compared in their own precision."
            )
        file.write(maps.tobytes())
        digest.update(image_bytes(x))
        count += len(maps)
    file.flush()
    if digest.digest() != compared.digest:
        raise ChangingDataError(
            "data: got images that change from pass to pass, so maps of one pass would rank the "
            "pixels of others; expected the same images in the same order. Try "
            "shuffle(n, reshuffle_each_iteration=False), and no random augmentation."
        )
    shape = (count, *maps.shape[1:])
    return np.memmap(file, maps.dtype, "r", shape=shape)
