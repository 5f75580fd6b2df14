"""Strategies of `tf.distribute` by name."""

from __future__ import annotations

import tensorflow as tf

from tfgrad.distribution import workers
from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import integer, one_of

NAMES = ("one_device", "mirrored", "multi_worker")


def strategy(
    name: str = "one_device", devices: int | None = None, *, join_seconds: float = 600.0
) -> tf.distribute.Strategy:
    """A tf.distribute strategy by name.

    Args:
        name: `"one_device"`: the default strategy. `"mirrored"`: all GPUs, or `devices` of them;
            without a GPU, `devices` logical CPUs to try it out. `"multi_worker"`: one process per
            worker, described by the environment variable TF_CONFIG.
        devices: Number of devices of `"mirrored"`, an integer ≥ 1; None means all GPUs, or 2
            logical CPUs without a GPU.
        join_seconds: How long a process of `"multi_worker"` waits for the others to start.

    Returns:
        A `tf.distribute.Strategy`; build and compile the model in its `scope()`.

    Raises:
        ArgumentError: The name is unknown, there are fewer devices, TF_CONFIG is missing or
            malformed, or TensorFlow has already started with fewer logical CPUs.
        WorkerError: A worker does not start within `join_seconds`, or another process uses the
            address that TF_CONFIG gives this one, as a second worker with its index does.
    """
    one_of("strategy", name, NAMES)
    if devices is not None:
        if name != "mirrored":
            raise ArgumentError(
                f"devices: got {devices} with strategy {name!r}; expected None. Use strategy "
                "'mirrored' to choose their number."
            )
        devices = integer("devices", devices)
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "multi_worker":
        return workers.joined(join_seconds)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        count = len(gpus) if devices is None else devices
        if count > len(gpus):
            raise ArgumentError(
                f"devices: got {devices}; expected at most {len(gpus)}, as this machine has that "
                "many GPUs."
            )
        return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(count)])
    return tf.distribute.MirroredStrategy(_logical_cpus(2 if devices is None else devices))


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Whether the strategy spans several processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes what all workers of a run would write alike.

    True for the only process, and for worker 0 of several.
    """
    resolver = strategy.cluster_resolver if is_multi_worker(strategy) else None
    return resolver is None or resolver.task_id in (None, 0)


def _logical_cpus(count: int) -> list[str]:
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or [None]) < count:
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * count
            )
        except RuntimeError as error:
            raise ArgumentError(
                f"devices: got {count}; expected no more logical CPUs than TensorFlow has already "
                "started with. Make the strategy before any tensor or variable, once per process."
            ) from error
    return [f"CPU:{i}" for i in range(count)]
