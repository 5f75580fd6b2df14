"""Checks of the arguments of `tfgrad.data.pipeline`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.data.augmentation import FLIP
from tfgrad.data.dataset import Dataset
from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import integer, is_integer

Statistics = tuple[np.ndarray, np.ndarray]
Edit = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def check_numbers(seed: int, start_epoch: int, epochs: int | None) -> None:
    """Check the seed and the epochs.

    Raises:
        ArgumentError: One of them is no integer, or out of range.
    """
    integer("seed", seed, lowest=0)
    if seed > np.iinfo(np.int64).max:
        raise ArgumentError(f"seed: got {seed!r}; expected an integer below 2**63.")
    integer("start_epoch", start_epoch, lowest=0)
    if epochs is not None:
        integer("epochs", epochs, lowest=1)


def check_training(
    training: bool, augment: bool | str, start_epoch: int, epochs: int | None
) -> None:
    """Check `augment`, and that arguments for training come with `training=True`.

    Raises:
        ArgumentError: `augment` is unknown, or an argument has no effect without training.
    """
    if augment not in (False, True, FLIP):
        raise ArgumentError(f"augment: got {augment!r}; expected True, False or {FLIP!r}.")
    for argument, value, neutral in (
        ("augment", augment, False),
        ("start_epoch", start_epoch, 0),
        ("epochs", epochs, None),
    ):
        if value != neutral and not training:
            raise ArgumentError(
                f"{argument}: got {value!r} with training=False, which reads the images once and "
                f"unchanged; expected {neutral!r}. Drop {argument} or pass training=True."
            )


def check_shard(shard: tuple[int, int], batch_size: int) -> None:
    """Check a worker's (index, count).

    Raises:
        ArgumentError: They are no such pair, or there are more workers than examples in a batch.
    """
    if not (isinstance(shard, (tuple, list)) and len(shard) == 2 and all(map(is_integer, shard))):
        raise ArgumentError(f"shard: got {shard!r}; expected two integers, (index, count).")
    index, count = shard
    if not 0 <= index < count:
        raise ArgumentError(f"shard: got {shard!r}; expected 0 <= index < count.")
    if count > batch_size:
        raise ArgumentError(
            f"shard: got {shard!r} with batch_size={batch_size}; expected at most {batch_size} "
            "workers, or some would never get an example. Raise batch_size."
        )


def check_edit(edit: Edit, images: tf.Tensor) -> None:
    """Apply an edit to the first image, outside a graph, where errors are easier to understand.

    Raises:
        ArgumentError: It is no function, or returns something else than images of the same shape
            and type.
    """
    if not callable(edit):
        raise ArgumentError(f"edit: got {edit!r}; expected a function of (images, positions).")
    stored = images[:1]
    edited: Any = edit(stored, tf.zeros([1], tf.int32))
    if not tf.is_tensor(edited) or (edited.shape, edited.dtype) != (stored.shape, stored.dtype):
        found = f"{getattr(edited, 'dtype', type(edited))} {getattr(edited, 'shape', '')}"
        raise ArgumentError(
            f"edit: got a function that returns {found}; expected a tensor of the same shape and "
            f"type as its images, {stored.dtype.name} {stored.shape}."
        )


def checked_statistics(normalize: Statistics, dataset: Dataset) -> Statistics:
    """(mean, std) as float32 arrays [channels].

    Raises:
        ArgumentError: They have another shape, are not finite, or a standard deviation is not
            above 0.
    """
    channels = dataset.image_shape[-1]
    try:
        mean, std = (np.asarray(value, np.float32) for value in normalize)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"normalize: got {normalize!r}; expected (mean, std). Try what `channel_statistics` "
            "returns."
        ) from error
    for name, value in (("mean", mean), ("std", std)):
        if value.shape != (channels,) or not np.isfinite(value).all():
            raise ArgumentError(
                f"normalize: got {name}={value!r}; expected {channels} finite numbers, one per "
                "channel."
            )
    if (std <= 0).any():
        raise ArgumentError(f"normalize: got std={std!r}; expected numbers above 0.")
    return mean, std
