"""Strategies by name, and what a replica must know of the global batch.

A batch cut over replicas must give the step that one device would have taken. Two things stand in
the way: each replica knows its own share only, and shares differ in size when a batch is ragged.
So every loss is divided by the *global* batch size, which the replicas agree on first.
"""

import dataclasses
import json
import os
from typing import Any

import tensorflow as tf

from tfgrad.errors import ArgumentError

NAMES = ("one_device", "mirrored", "multi_worker")


def strategy(name="one_device", devices=None):
    """A tf.distribute strategy by name.

    Args:
        name: `"one_device"`: the default strategy. `"mirrored"`: all GPUs, or `devices` of them;
            without a GPU, `devices` logical CPUs to try it out. `"multi_worker"`: one process per
            worker, described by the environment variable TF_CONFIG.
        devices: how many devices `"mirrored"` uses; None means all GPUs (2 logical CPUs without).

    Returns:
        A `tf.distribute.Strategy`; build and compile the model in its `scope()`.

    Raises:
        ArgumentError: unknown name, more devices than there are, TF_CONFIG missing or malformed,
            or TensorFlow already started with fewer logical CPUs.
    """
    if name not in NAMES:
        raise ArgumentError(
            f"strategy: got {name!r}; expected one of {', '.join(map(repr, NAMES))}."
        )
    if devices is not None and name != "mirrored":
        raise ArgumentError(
            f"devices: got {devices} with strategy {name!r}; only 'mirrored' has it."
        )
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "multi_worker":
        _check_tf_config()
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        count = len(gpus) if devices is None else devices
        if not 1 <= count <= len(gpus):
            raise ArgumentError(f"devices: got {devices}; this machine has {len(gpus)} GPUs.")
        return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(count)])
    return tf.distribute.MirroredStrategy(_logical_cpus(2 if devices is None else devices))


def local_slices(strategy, pipeline):
    """A distributed data set in which every replica receives its slice of every global batch.

    Unlike automatic sharding, this keeps the global batches the same whatever the number of
    replicas and workers: the last, ragged one too, of which a replica may receive nothing.

    Args:
        strategy: the strategy to train under.
        pipeline: a function (index, count) → tf.data.Dataset that yields, for every global batch,
            the `index`-th of `count` contiguous slices, empty ones included.

    Returns:
        What `fit` and `evaluate` take: a plain data set on one device, else a distributed one.
    """
    total = strategy.num_replicas_in_sync
    if total == 1:
        return pipeline(0, 1)

    def of_this_worker(context):
        workers = max(context.num_input_pipelines, 1)
        local = total // workers
        first = context.input_pipeline_id * local
        streams = tuple(pipeline(first + i, total) for i in range(local))
        if local == 1:
            return streams[0]
        one_after_the_other = tf.data.Dataset.zip(streams).flat_map(_in_turn)
        return one_after_the_other.prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(of_this_worker)


@dataclasses.dataclass(frozen=True)
class Share:
    """This replica's share of the global batch.

    Attributes:
        size: examples on this replica, int32 scalar; may be 0.
        total: examples on all replicas, int32 scalar.
        offset: the position of this replica's first example in the global batch.
        replicas: how many replicas there are, int.
    """

    size: Any
    total: Any
    offset: Any
    replicas: int


def share_of(x) -> Share:
    """This replica's share, agreed on with the others in one all-reduce; call it in a replica."""
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


def one_at_least(tensors):
    """The batch, or one example of ones where a replica received none.

    The gradient of a convolution on an empty batch ends the process. Ones, because networks that
    divide by a norm of their input have no value at zero.
    """

    def padded(t):
        # Not tf.pad: oneDNN fuses it into a following convolution and pads the wrong axes.
        shape = tf.shape(t)
        missing = tf.concat([tf.maximum(1 - shape[:1], 0), shape[1:]], 0)
        # Integers are labels or tokens, of which 0 is always one.
        fill = tf.ones if t.dtype.is_floating else tf.zeros
        return tf.concat([t, fill(missing, t.dtype)], 0)

    return tf.nest.map_structure(padded, tensors)


def local_value(strategy, value):
    """One local replica's part of a per-replica structure."""
    return tf.nest.map_structure(lambda v: strategy.experimental_local_results(v)[0], value)


def is_multi_worker(strategy) -> bool:
    """Whether other processes take part."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _in_turn(*slices):
    sets = [tf.data.Dataset.from_tensors(s) for s in slices]
    joined = sets[0]
    for following in sets[1:]:
        joined = joined.concatenate(following)
    return joined


def _logical_cpus(count):
    if not isinstance(count, int) or count < 1:
        raise ArgumentError(f"devices: got {count!r}; expected an integer ≥ 1.")
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or [None]) < count:
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * count
            )
        except RuntimeError as error:
            raise ArgumentError(
                f"devices: got {count} logical CPUs, but TensorFlow has already started with "
                "fewer. Make the strategy before any tensor or variable, once per process."
            ) from error
    return [f"CPU:{i}" for i in range(count)]


def _check_tf_config():
    text = os.environ.get("TF_CONFIG")
    example = (
        '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    if not text:
        raise ArgumentError(
            f"TF_CONFIG: not set; strategy 'multi_worker' needs it in every process, e.g. {example}"
        )
    try:
        config = json.loads(text)
        workers = len(config["cluster"]["worker"])
        kind, index = config["task"]["type"], config["task"]["index"]
        valid = kind == "worker" and isinstance(index, int) and 0 <= index < workers
    except (ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        raise ArgumentError(f"TF_CONFIG: got {text!r}; expected JSON such as {example}")
