"""A replica's share of the global batch.

A batch divided among replicas must give the step that one device would have taken. But a replica
only knows its own share, and shares differ in size when a batch is ragged. Every loss is therefore
divided by the *global* batch size, which the replicas add up first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def local_slices(
    strategy: tf.distribute.Strategy, pipeline: Callable[[int, int], tf.data.Dataset]
) -> Any:
    """A distributed data set in which every replica receives its slice of every global batch.

    Unlike automatic sharding, this keeps the global batches the same for any number of replicas and
    workers, including the last, ragged one, of which a replica may receive nothing.

    Args:
        strategy: Strategy of the training.
        pipeline: A function (index, count) → tf.data.Dataset that yields, for every global batch,
            the `index`-th of `count` contiguous slices, empty ones included.

    Returns:
        A data set for `fit` and `evaluate`: a plain one on one device, else a distributed one.
    """
    total = strategy.num_replicas_in_sync
    if total == 1:
        return pipeline(0, 1)

    def of_this_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers = max(context.num_input_pipelines, 1)
        local = total // workers
        first = context.input_pipeline_id * local
        streams = tuple(pipeline(first + i, total) for i in range(local))
        if local == 1:
            return streams[0]
        in_turn = tf.data.Dataset.zip(streams).flat_map(_concatenated)
        return in_turn.prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(of_this_worker)


@dataclasses.dataclass(frozen=True)
class Share:
    """This replica's share of the global batch.

    Attributes:
        size: Number of examples on this replica, int32 scalar; may be 0.
        total: Number of examples on all replicas, int32 scalar.
        offset: Position of this replica's first example in the global batch.
        replicas: Number of replicas, int.
    """

    size: Any
    total: Any
    offset: Any
    replicas: int


def share_of(x: Any) -> Share:
    """This replica's share, found with the others in one all-reduce; to be called in a replica."""
    size = tf.shape(tf.nest.flatten(x)[0])[0]
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync if context is not None else 1
    if replicas == 1:
        return Share(size, size, 0, 1)
    index = tf.cast(context.replica_id_in_sync_group, tf.int32)
    # Float32 counts exactly to 2²⁴ examples, and every collective implements it.
    mine = tf.one_hot(index, replicas) * tf.cast(size, tf.float32)
    sizes = tf.cast(context.all_reduce(tf.distribute.ReduceOp.SUM, mine), tf.int32)
    return Share(size, tf.reduce_sum(sizes), tf.cumsum(sizes, exclusive=True)[index], replicas)


def one_at_least(tensors: Any) -> Any:
    """The batch, or one example of ones if a replica received none.

    The gradient of a convolution on an empty batch aborts the process. The example consists of
    ones, because networks that divide by a norm of their input have no value at zero.
    """

    def padded(t: tf.Tensor) -> tf.Tensor:
        # Not tf.pad: oneDNN fuses it into a following convolution and pads the wrong axes.
        shape = tf.shape(t)
        missing = tf.concat([tf.maximum(1 - shape[:1], 0), shape[1:]], 0)
        # Integers are labels or tokens, for which 0 is always valid.
        fill = tf.ones if t.dtype.is_floating else tf.zeros
        return tf.concat([t, fill(missing, t.dtype)], 0)

    return tf.nest.map_structure(padded, tensors)


def local_value(strategy: tf.distribute.Strategy, value: Any) -> Any:
    """One local replica's part of a per-replica structure."""
    return tf.nest.map_structure(lambda v: strategy.experimental_local_results(v)[0], value)


def _concatenated(*slices: Any) -> tf.data.Dataset:
    sets = [tf.data.Dataset.from_tensors(s) for s in slices]
    joined = sets[0]
    for following in sets[1:]:
        joined = joined.concatenate(following)
    return joined
