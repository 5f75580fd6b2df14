"""How the tests of a trained model read their data, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, NonFiniteError


def placed(batches: Iterable[Any]) -> Iterator[tuple[Any, Any, tf.Tensor]]:
    """(images, labels, the first one's index int64) of every batch, in one pass; empty ones not.

    Raises:
        ArgumentError: the data set can be read only once, is empty, or its elements are no pairs of
            float images and labels.
    """
    if iter(batches) is batches:
        raise ArgumentError(
            "batches: got an iterator, which can be read only once; expected a data set of "
            "(images, labels) batches, e.g. tfgrad.data.pipeline(..., training=False)."
        )
    first = 0
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ArgumentError(
                f"batches: got a batch that is a {type(batch).__name__}; expected a pair "
                "(images, labels)."
            )
        x, y = tf.nest.map_structure(tf.convert_to_tensor, tuple(batch))
        one = next((t for t in tf.nest.flatten(x) if t.dtype.is_floating), None)
        if one is None:
            raise ArgumentError(
                "batches: got integer images; expected float ones as the network takes them, e.g. "
                "tf.cast(x, tf.float32) / 255."
            )
        if one.shape[0]:
            yield x, y, tf.constant(first, tf.int64)
        first += one.shape[0]
    if not first:
        raise ArgumentError("batches: got an empty data set; expected (images, labels) batches.")


def per_image(function: Callable[[Any, Any, tf.Tensor], tf.Tensor], batches: Any) -> np.ndarray:
    """What a function of (images, labels, the first one's index) says of each image, [n, …].

    It is traced once, for batches of any size, and its answers are fetched after the last batch.
    """
    traced, parts = None, []
    for batch in placed(batches):
        if traced is None:
            x, y, first = batch
            specs = tf.nest.map_structure(_any_batch, (x, y))
            traced = tf.function(function, autograph=False).get_concrete_function(
                *specs, tf.TensorSpec([], first.dtype)
            )
        parts.append(traced(*batch))
    return np.concatenate([part.numpy() for part in parts])


def one_by_one(function: Callable[[tf.Tensor], tf.Tensor], values: Any, dtype: Any) -> tf.Tensor:
    """What a function says of each value, stacked; the memory is that of one."""
    return tf.map_fn(function, values, fn_output_signature=dtype, parallel_iterations=1)


def check_finite(values: np.ndarray, what: str) -> None:
    """Refuse numbers of which no mean exists.

    Args:
        values: [n, …].
        what: whose argument and what they are, in the plural: "network: the logits".

    Raises:
        NonFiniteError: those of some image are NaN or infinite.
    """
    finite = np.isfinite(values).reshape(len(values), -1).all(-1)
    if not finite.all():
        raise NonFiniteError(
            f"{what} of image {int(finite.argmin())} are NaN or infinite, as of {(~finite).sum()} "
            f"of {len(values)} images. Look at the images first, then at the weights."
        )


def noise_levels(sigmas: Iterable[float]) -> tuple[float, ...]:
    """Standard deviations from 0 up, at least one.

    Raises:
        ArgumentError: they are none.
    """
    levels = list(sigmas)
    if not levels or not all(0 <= level < float("inf") for level in levels):
        raise ArgumentError(f"sigmas: got {levels}; expected numbers from 0 up.")
    return tuple(float(level) for level in levels)


def _any_batch(tensor: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)
