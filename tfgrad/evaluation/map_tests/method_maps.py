"""A method's maps of a training and a test set, and the data sets without the ranked pixels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.data.dataset import Dataset
from tfgrad.errors import ArgumentError
from tfgrad.evaluation.digests import array_digest
from tfgrad.evaluation.map_tests.pixel_removal import (
    RANDOM,
    check_varying,
    constant_rows,
    finite_rows,
    left_out,
    pixels_in,
    ranked,
)
from tfgrad.evaluation.map_tests.retrainer import EditedDataset
from tfgrad.internal.stateless_noise import Draws


class MethodMaps:
    """A method's maps of both data sets, which of them are finite, and their ranks on demand.

    Args:
        name: Name of the method.
        given: A pair of maps, or `"random"`.
        train: The data set of the first maps.
        test: The data set of the second maps.

    Attributes:
        left_out: Number of training and test images whose map is not finite.
        constant: Number of training and test images whose map is constant.
        tested: Number of test images with a finite map.
        digests: Digests of the two maps.

    Warns:
        UserWarning: Maps are not finite.

    Raises:
        ArgumentError: `given` is no pair of maps that fit the data sets.
        DataError: All maps of a data set are constant or not finite.
    """

    def __init__(self, name: str, given: Any, train: Dataset, test: Dataset) -> None:
        pair = (RANDOM, RANDOM) if isinstance(given, str) and given == RANDOM else given
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ArgumentError(
                f"maps: got a {type(given).__name__} for {name!r}; expected a pair, (training "
                f"maps, test maps), or {RANDOM!r}."
            )
        whose = [f"maps: {name!r}, {which} images" for which in ("training", "test")]
        self._datasets = train, test
        self._maps = [
            _checked_maps(who, maps, dataset, seed)
            for seed, (who, maps, dataset) in enumerate(
                zip(whose, pair, (train, test), strict=True)
            )
        ]
        self._finite = [finite_rows(maps) for maps in self._maps]
        counts = [left_out(*one) for one in zip(self._finite, whose, strict=True)]
        self.left_out = sum(counts)
        self.constant = 0
        for who, maps, finite in zip(whose, self._maps, self._finite, strict=True):
            if isinstance(maps, NoiseMaps):
                continue
            constant = int((constant_rows(maps) & finite).sum())
            check_varying(constant, int(finite.sum()), who)
            self.constant += constant
        self.tested = len(test) - counts[1]
        self.digests = [_digest(maps) for maps in self._maps]

    def without(
        self, fraction: float, remove: str, colour: np.ndarray | None
    ) -> tuple[EditedDataset, EditedDataset]:
        """Both data sets without images whose map is not finite, and without the ranked pixels.

        Args:
            fraction: Share of the pixels that are replaced.
            remove: `"most"` or `"least"` salient first.
            colour: The replacement in [0, 1], [1 or C]; None for the mean of each image.
        """
        train, test = (
            EditedDataset(dataset, _removal(ranks, fraction, remove, colour))
            for dataset, ranks in self._ranked
        )
        return train, test

    @functools.cached_property
    def _ranked(self) -> list[tuple[Dataset, tf.Tensor]]:
        parts = zip(self._datasets, self._maps, self._finite, strict=True)
        # Eager tensors on the CPU, which data streams pass by reference.
        with tf.device("CPU:0"):
            return [
                (_rows_of(dataset, finite), tf.convert_to_tensor(ranked(maps)[finite]))
                for dataset, maps, finite in parts
            ]


class NoiseMaps:
    """The control: maps [n, H, W] of noise, each a function of (seed, the image's position).

    Args:
        shape: The shape of all maps, (n, H, W).
        seed: Seed of the noise.
    """

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.shape, self.seed = shape, seed

    def __getitem__(self, rows: slice) -> tf.Tensor:
        start, stop, _ = rows.indices(self.shape[0])
        like = tf.zeros([stop - start, *self.shape[1:]])
        return Draws(0, start).normal(like, 1, self.seed)[0]


def _removal(
    ranks: tf.Tensor, fraction: float, remove: str, colour: np.ndarray | None
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """An edit of `data.pipeline` that replaces pixels; see `MethodMaps.without`."""
    pixels = int(np.prod(ranks.shape[1:]))
    count = int(pixels_in(tf.constant(fraction, tf.float64), pixels))

    def edit(images: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
        rank = tf.cast(tf.gather(ranks, positions), tf.int32)
        gone = rank < count if remove == "least" else rank >= pixels - count
        if colour is None:
            positions = range(1, images.shape.rank - 1)
            value = tf.reduce_mean(tf.cast(images, tf.float32), positions, keepdims=True)
        else:
            value = tf.constant(colour) * (255.0 if images.dtype == tf.uint8 else 1.0)
        value = tf.round(value) if images.dtype == tf.uint8 else value
        return tf.where(gone[..., tf.newaxis], tf.cast(value, images.dtype), images)

    return edit


def _rows_of(dataset: Dataset, rows: np.ndarray) -> Dataset:
    if rows.all():
        return dataset
    return dataclasses.replace(dataset, images=dataset.images[rows], labels=dataset.labels[rows])


def _digest(maps: Any) -> str:
    return f"{RANDOM} {maps.seed}" if isinstance(maps, NoiseMaps) else array_digest(maps)


def _checked_maps(whose: str, maps: Any, dataset: Dataset, seed: int) -> Any:
    """Maps [n, *positions] that can be sliced."""
    expected = (len(dataset), *dataset.image_shape[:-1])
    if isinstance(maps, str) and maps == RANDOM:
        return NoiseMaps(expected, seed)
    found = maps if hasattr(maps, "shape") else np.asarray(maps)
    shape, kind = tuple(found.shape), np.dtype(getattr(found.dtype, "as_numpy_dtype", found.dtype))
    if shape != expected or kind.kind not in "fiu":
        raise ArgumentError(
            f"{whose}: got {kind} {shape}; expected numbers {expected}, a map for every image, or "
            f"{RANDOM!r}. Sum a gradient over its channels first."
        )
    return found
