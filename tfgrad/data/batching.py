"""The stream of batches: shuffling, augmentation and sharding as functions of (seed, epoch)."""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfgrad.data.dataset import Dataset
from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import integer, is_integer

Statistics = tuple[np.ndarray, np.ndarray]
Edit = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

FLIP = "flip"
# Batches that are ready before they are asked for.
_AHEAD = 2


def steps_per_epoch(dataset: Dataset, batch_size: int, drop_remainder: bool = False) -> int:
    """Return the number of batches in one epoch, the ragged last one included unless dropped."""
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
    `start_epoch=k` reads exactly what the uninterrupted run read from epoch k on, and batch size,
    sharding and parallelism change no image. The epochs form one stream:

        stream = pipeline(train, 64, training=True)
        model.fit(stream, steps_per_epoch=steps_per_epoch(train, 64), epochs=10, shuffle=False)

    (without `shuffle=False`, Keras warns that it does not shuffle such a stream itself.)
    Without `training` the stream is one pass in stored order.

    With several workers, each builds the stream with the same arguments but for `shard`, and
    receives its contiguous slice of every batch of `batch_size` examples, the *global* batch. Slice
    sizes differ by at most one, the first workers take the extra examples, and of an epoch's ragged
    last batch a worker may get nothing, an empty batch; `drop_remainder` avoids that. The stream
    carries the option that keeps `tf.distribute` from sharding it a second time.

    Args:
        dataset: the examples; all its streams share one copy of them.
        batch_size: examples per global batch.
        training: whether to shuffle, epoch after epoch.
        seed: which orders and augmentations; training only.
        normalize: (mean, std) per channel, each [channels], of images in [0, 1]: what
            `channel_statistics` returns for the *training* split. None leaves images in [0, 1].
        augment: True mirrors half of the images left-right and shifts each by up to side // 8
            pixels (4 for a side of 32) in either direction, filling with black; `"flip"` mirrors
            alone, for penalties that look at noise around an image (black borders stand out);
            training only.
        start_epoch: the first epoch to stream; training only.
        epochs: how many epochs to stream, None for endlessly many; training only.
        drop_remainder: whether to drop an epoch's ragged last batch.
        shard: (index, count) of this worker.
        edit: what is done to images before augmentation and normalisation, so that a modified data
            set needs no copy: a function in TensorFlow of (images [batch, height, width, channels]
            as stored, their positions in the data set [batch] int32) that returns images of the
            same shape and type.

    Returns:
        A `tf.data.Dataset` of (images [batch, height, width, channels] float32, labels [batch]
        int32).

    Raises:
        ArgumentError: for a number out of range, `normalize` of the wrong shape, a training-only
            argument without `training`, a `drop_remainder` that would drop everything, or an `edit`
            that returns something else than such images.
    """
    examples = len(dataset)
    steps = steps_per_epoch(dataset, batch_size, drop_remainder)
    _check(dataset, steps, batch_size, training, seed, augment, start_epoch, epochs, shard)
    mean_std = None if normalize is None else _checked_statistics(normalize, dataset)
    images, labels = dataset.tensors
    if edit is not None:
        _check_edit(edit, images)
    root = tf.constant([seed, 0], tf.int64)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        """Indices of the examples of each batch, and the random numbers that augment them."""
        order = tf.range(examples, dtype=tf.int32)
        key = tf.random.experimental.stateless_fold_in(root, epoch)
        if training:
            order = tf.random.experimental.stateless_shuffle(order, key)
        if augment:
            # One row per example, not per position: a row depends on nothing else.
            uniform = tf.random.stateless_uniform(
                [examples, 3], tf.random.experimental.stateless_fold_in(key, 1)
            )
            if augment == FLIP:
                uniform = tf.concat([uniform[:, :1], tf.fill([examples, 2], 0.5)], axis=1)

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
    # Its thread was seen to miss the end of a short stream, whose destructor then waits for ever.
    options.autotune.enabled = False
    return stream.prefetch(_AHEAD).with_options(options)


def shard_bounds(size, index: int, count: int):
    """Return where the slice of worker `index` of `count` in a batch of `size` begins and ends."""
    quotient, remainder = size // count, size % count
    smaller = min if isinstance(size, int) else tf.minimum
    return (
        index * quotient + smaller(remainder, index),
        (index + 1) * quotient + smaller(remainder, index + 1),
    )


def flip_and_shift(images: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Mirror and shift each image of a batch.

    Args:
        images: [batch, height, width, channels], any type.
        uniform: [batch, 3] in [0, 1): mirrored left-right below one half; then where between
            the largest shift down (right) and the largest shift up (left), side // 8 pixels each.

    Returns:
        Images of the same shape and type; uncovered pixels are 0.
    """
    height, width = images.shape[1:3]
    pad_y, pad_x = height // 8, width // 8
    padded = tf.pad(images, [[0, 0], [pad_y, pad_y], [pad_x, pad_x], [0, 0]])
    top = tf.cast(uniform[:, 1] * (2 * pad_y + 1), tf.int32)
    left = tf.cast(uniform[:, 2] * (2 * pad_x + 1), tf.int32)
    across = tf.range(width)
    mirrored = uniform[:, :1] < 0.5
    columns = left[:, None] + tf.where(mirrored, width - 1 - across, across)
    rows = top[:, None] + tf.range(height)
    rows_kept = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(rows_kept, columns, axis=2, batch_dims=1)


def _check(
    dataset: Dataset,
    steps: int,
    batch_size: int,
    training: bool,
    seed: int,
    augment: bool | str,
    start_epoch: int,
    epochs: int | None,
    shard: tuple[int, int],
) -> None:
    integer("seed", seed, lowest=0)
    if seed > np.iinfo(np.int64).max:
        raise ArgumentError(f"seed={seed!r} must be below 2**63.")
    if augment not in (False, True, FLIP):
        raise ArgumentError(f"augment={augment!r} must be True, False or {FLIP!r}.")
    integer("start_epoch", start_epoch, lowest=0)
    if epochs is not None:
        integer("epochs", epochs, lowest=1)
    for argument, given in (
        ("augment", augment),
        ("start_epoch", start_epoch),
        ("epochs", epochs is not None),
    ):
        if given and not training:
            raise ArgumentError(
                f"{argument} was given with training=False, which reads the images once and as "
                f"they are; drop {argument} or pass training=True."
            )
    if steps == 0:
        raise ArgumentError(
            f"drop_remainder=True drops all {len(dataset)} examples of {dataset.name!r} with "
            f"batch_size={batch_size}; lower batch_size."
        )
    if not (isinstance(shard, (tuple, list)) and len(shard) == 2 and all(map(is_integer, shard))):
        raise ArgumentError(f"shard={shard!r} must be two integers, (index, count).")
    index, count = shard
    if not 0 <= index < count:
        raise ArgumentError(f"shard={shard!r} must satisfy 0 <= index < count.")
    if count > batch_size:
        raise ArgumentError(
            f"shard={shard!r} divides a global batch of batch_size={batch_size} among {count} "
            "workers, and some would never get an example; raise batch_size."
        )


def _check_edit(edit: Edit, images: tf.Tensor) -> None:
    """Try it on the first image, outside a graph, where errors say what happened."""
    if not callable(edit):
        raise ArgumentError(f"edit={edit!r} must be a function of (images, positions).")
    stored = images[:1]
    edited = edit(stored, tf.zeros([1], tf.int32))
    if not tf.is_tensor(edited) or (edited.shape, edited.dtype) != (stored.shape, stored.dtype):
        found = f"{getattr(edited, 'dtype', type(edited))} {getattr(edited, 'shape', '')}"
        raise ArgumentError(
            f"edit makes {found} of images {stored.dtype.name} {stored.shape}; it must return a "
            "tensor of the same shape and type."
        )


def _checked_statistics(normalize: Statistics, dataset: Dataset) -> Statistics:
    channels = dataset.image_shape[-1]
    try:
        mean, std = (np.asarray(value, np.float32) for value in normalize)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"normalize={normalize!r} must be (mean, std), as `channel_statistics` returns them."
        ) from error
    for argument, value in (("mean", mean), ("std", std)):
        if value.shape != (channels,) or not all(map(math.isfinite, value)):
            raise ArgumentError(
                f"normalize: {argument}={value!r} must be {channels} finite numbers, one per "
                "channel."
            )
    if (std <= 0).any():
        raise ArgumentError(f"normalize: std={std!r} must be above 0.")
    return mean, std
