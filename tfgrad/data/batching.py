"""The stream of batches: shuffling, augmentation and sharding as functions of (seed, epoch)."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.data.augmentation import draws, flip_and_shift
from tfgrad.data.dataset import Dataset
from tfgrad.data.stream_checks import (
    Edit,
    Statistics,
    check_edit,
    check_numbers,
    check_shard,
    check_training,
    checked_statistics,
)
from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import integer

# Batches that are prepared ahead of their use.
_AHEAD = 2


def steps_per_epoch(dataset: Dataset, batch_size: int, drop_remainder: bool = False) -> int:
    """The number of batches in one epoch, including the smaller last one unless it is dropped."""
    integer("batch_size", batch_size)
    return len(dataset) // batch_size if drop_remainder else -(-len(dataset) // batch_size)


def pipeline(
    dataset: Dataset,
    batch_size: int,
    *,
    training: bool,
    seed: int = 0,
    normalize: Statistics | None = None,
    augment: bool | str = False,
    start_epoch: int = 0,
    epochs: int | None = None,
    drop_remainder: bool = False,
    shard: tuple[int, int] = (0, 1),
    edit: Edit | None = None,
) -> tf.data.Dataset:
    """Stream a data set in batches.

    With `training`, epoch e visits every example once in an order that depends on (seed, e) alone,
    and the augmentation of an example depends on (seed, e, the example) alone: a run resumed with
    `start_epoch=k` reads exactly what the uninterrupted run reads from epoch k on, and batch size,
    sharding and parallelism change no image. The epochs form one stream:

        stream = pipeline(train, 64, training=True)
        model.fit(stream, steps_per_epoch=steps_per_epoch(train, 64), epochs=10, shuffle=False)

    (Without `shuffle=False`, Keras warns that it does not shuffle such a stream itself.)
    Without `training` the stream is one pass in stored order.

    With several workers, each builds the stream with the same arguments except `shard`, and
    receives its contiguous slice of every batch of `batch_size` examples, the *global* batch. Slice
    sizes differ by at most one, with the extra examples in the first slices. If an epoch's last
    batch is smaller, a worker may get an empty batch; `drop_remainder` avoids that. The stream
    carries the option that keeps `tf.distribute` from sharding it a second time.

    Args:
        dataset: The examples; all its streams share one copy of them.
        batch_size: Number of examples per global batch.
        training: Whether to shuffle, epoch after epoch.
        seed: Seed of the orders and augmentations; training only.
        normalize: (mean, std) per channel, each [channels], for images in [0, 1]: what
            `channel_statistics` returns for the *training* split. None leaves images in [0, 1].
        augment: True mirrors half of the images left-right and shifts each by up to side // 8
            pixels (4 for a side of 32) in either direction, filling with black; `"flip"` only
            mirrors, for penalties that evaluate noise around an image (black borders stand out);
            training only.
        start_epoch: The first epoch to stream; training only.
        epochs: Number of epochs to stream, None for an endless stream; training only.
        drop_remainder: Whether to drop an epoch's last batch if it is smaller.
        shard: (index, count) of this worker.
        edit: Function applied to images before augmentation and normalisation, so that a modified
            data set needs no copy. It maps, in TensorFlow, (images [batch, height, width, channels]
            as stored, their positions in the data set [batch] int32) to images of the same shape
            and type.

    Returns:
        A `tf.data.Dataset` of (images [batch, height, width, channels] float32, labels [batch]
        int32).

    Raises:
        ArgumentError: A number is out of range, `normalize` has the wrong shape, a training-only
            argument is given without `training`, `drop_remainder` would drop everything, or `edit`
            returns something else than such images.
    """
    examples = len(dataset)
    steps = steps_per_epoch(dataset, batch_size, drop_remainder)
    check_numbers(seed, start_epoch, epochs)
    check_training(training, augment, start_epoch, epochs)
    if augment and dataset.positions != 2:
        raise ArgumentError(
            f"augment: got {augment!r} for {dataset.name!r}, which has no images; expected False. "
            "Try edit=, which takes a function of your own."
        )
    if steps == 0:
        raise ArgumentError(
            f"drop_remainder: got True with batch_size={batch_size}, which drops all {examples} "
            f"examples of {dataset.name!r}; expected at least one batch. Lower batch_size."
        )
    check_shard(shard, batch_size)
    mean_std = None if normalize is None else checked_statistics(normalize, dataset)
    images, labels = dataset.tensors
    if edit is not None:
        check_edit(edit, images)
    root = tf.constant([seed, 0], tf.int64)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        """Indices of the examples of each batch, and the random numbers that augment them."""
        order = tf.range(examples, dtype=tf.int32)
        key = tf.random.experimental.stateless_fold_in(root, epoch)
        if training:
            order = tf.random.experimental.stateless_shuffle(order, key)
        if augment:
            key = tf.random.experimental.stateless_fold_in(key, 1)
            uniform = draws(key, examples, augment)

        def batch(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
            start = step * batch_size
            size = tf.minimum(tf.constant(batch_size, tf.int64), examples - start)
            low, high = shard_bounds(size, *shard)
            indices = order[start + low : start + high]
            return (indices, tf.gather(uniform, indices)) if augment else (indices,)

        return tf.data.Dataset.range(steps).map(batch)

    def read(indices: tf.Tensor, uniform: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        batch = tf.gather(images, indices)
        if edit is not None:
            batch = tf.ensure_shape(edit(batch, indices), [None, *dataset.image_shape])
        if uniform is not None:
            batch = flip_and_shift(batch, uniform)
        batch = tf.cast(batch, tf.float32)
        if images.dtype == tf.uint8:
            batch = batch / 255.0
        if mean_std is not None:
            batch = (batch - mean_std[0]) / mean_std[1]
        if drop_remainder or examples % batch_size == 0:
            low, high = shard_bounds(batch_size, *shard)
            batch = tf.ensure_shape(batch, [high - low, *dataset.image_shape])
            indices = tf.ensure_shape(indices, [high - low])
        return batch, tf.gather(labels, indices)

    stop = np.iinfo(np.int64).max if epochs is None else start_epoch + epochs
    stream = tf.data.Dataset.range(start_epoch, stop if training else start_epoch + 1)
    stream = stream.flat_map(epoch_batches)
    stream = stream.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # flat_map hides how many batches there are; Keras wants to know.
    cardinality = steps * (epochs or 1)
    if training and epochs is None:
        cardinality = tf.data.INFINITE_CARDINALITY
    stream = stream.apply(tf.data.experimental.assert_cardinality(cardinality))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # Its thread can miss the end of a short stream, whose destructor then waits forever.
    options.autotune.enabled = False
    return stream.prefetch(_AHEAD).with_options(options)


def shard_bounds(size: Any, index: int, count: int) -> tuple[Any, Any]:
    """Where the slice of worker `index` of `count` in a batch begins and ends.

    Args:
        size: The batch's size, an int or an integer tensor.
        index: The worker's number, from 0.
        count: The number of workers.

    Returns:
        (begin, end) of the type of `size`.
    """
    quotient, remainder = size // count, size % count
    smaller = min if isinstance(size, int) else tf.minimum
    return (
        index * quotient + smaller(remainder, index),
        (index + 1) * quotient + smaller(remainder, index + 1),
    )
