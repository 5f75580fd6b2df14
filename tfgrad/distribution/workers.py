"""The workers of a distributed run: waiting for all of them, and naming one that is lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence

import tensorflow as tf

from tfgrad.errors import ArgumentError, WorkerError

_EXAMPLE = (
    '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_SECONDS_BETWEEN_TRIES, _SECONDS_OF_A_TRY, _SECONDS_OF_SILENCE = 0.2, 2.0, 15.0

# What the errors of TensorFlow say whose cause is another worker, in the words of 2.21.
_OF_A_WORKER = ("Collective ops is aborted", "stopped sending heartbeats", "coordination service")
_TASK = re.compile(r"/job:worker(?:/replica:\d+)?/task:(\d+)")


def joined(seconds: float) -> tf.distribute.MultiWorkerMirroredStrategy:
    """The strategy of the run that TF_CONFIG describes, once all of its workers have started.

    Args:
        seconds: How long to wait for the others.

    Raises:
        ArgumentError: TF_CONFIG is missing or malformed.
        WorkerError: A worker has not started, or the own address is in use.
    """
    addresses, index = cluster()
    if len(addresses) > 1:
        with _listening(addresses[index], index):
            _wait_for([a for i, a in enumerate(addresses) if i != index], addresses, seconds)
    return tf.distribute.MultiWorkerMirroredStrategy()


def lost_worker(error: Exception) -> str | None:
    """Which worker is lost, as part of a message, if an error of TensorFlow says that one is."""
    text = str(error)
    at = [text.find(words) for words in _OF_A_WORKER if words in text]
    if not isinstance(error, tf.errors.OpError) or not at:
        return None
    try:
        addresses, own = cluster()
    except ArgumentError:
        return None
    text = text[min(at) :]
    unhealthy = text.find("unhealthy")
    named = _TASK.findall(text[max(unhealthy, 0) :])
    others = sorted({int(i) for i in named} - {own})
    known = [f"{i} ({addresses[i]})" for i in others if i < len(addresses)]
    if not known:
        return f"a worker of {len(addresses)}"
    return f"worker{'s' if len(known) > 1 else ''} {', '.join(known)}"


def cluster() -> tuple[list[str], int]:
    """(addresses of all workers, index of this one) of the environment variable TF_CONFIG.

    Raises:
        ArgumentError: It is missing or malformed.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise ArgumentError(
            f"TF_CONFIG: got {text!r}; expected JSON in the environment of every process, e.g. "
            f"{_EXAMPLE}"
        )
    try:
        config = json.loads(text)
        addresses, task = config["cluster"]["worker"], config["task"]
        fault = _fault(addresses, task["type"], task["index"])
    except (ValueError, KeyError, TypeError) as error:
        fault = f"{type(error).__name__}: {error}"
    if fault is not None:
        raise ArgumentError(f"TF_CONFIG: got {text!r} ({fault}); expected JSON such as {_EXAMPLE}")
    return addresses, task["index"]


def _fault(addresses: object, kind: object, index: object) -> str | None:
    """What is wrong with the entries of TF_CONFIG."""
    if not isinstance(addresses, list) or not addresses:
        return "cluster.worker is not a list of addresses"
    for address in addresses:
        if not isinstance(address, str) or not re.fullmatch(r".+:\d+", address):
            return f"the address {address!r} has no port"
    if len(set(addresses)) < len(addresses):
        return "two workers have one address"
    if kind != "worker":
        return f"task.type is {kind!r}, not 'worker'"
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(addresses):
        return f"task.index is {index!r}, not in 0 … {len(addresses) - 1}"
    return None


@contextlib.contextmanager
def _listening(address: str, index: int) -> Iterator[None]:
    """Answer the other workers at the own address, where TensorFlow will answer after this block.

    Raises:
        WorkerError: The address is in use.
    """
    port = int(address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise WorkerError(
            f"TF_CONFIG: got task index {index} with the address {address!r}, at which it cannot "
            f"listen ({os.strerror(error.errno or 0)}); expected a free port, and one process for "
            "every index. Look for a second worker with this index, or one of an earlier run."
        ) from error
    with server:
        yield


def _wait_for(others: list[str], addresses: Sequence[str], seconds: float) -> None:
    """Wait until the other workers answer.

    Raises:
        WorkerError: Some do not; the message names them.
    """
    start = time.monotonic()
    said = False
    while others := [address for address in others if not _answers(address)]:
        names = ", ".join(f"{addresses.index(a)} ({a})" for a in others)
        waited = time.monotonic() - start
        if waited > seconds:
            raise WorkerError(
                f"TF_CONFIG: got a cluster of {len(addresses)} workers, of which {names} did not "
                f"start within {seconds:g} s; expected all of them. Start the same command once "
                "for every index, and check addresses and firewalls."
            )
        if waited > _SECONDS_OF_SILENCE and not said:
            print(f"waiting for worker {names}", file=sys.stderr, flush=True)
            said = True
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _SECONDS_OF_A_TRY):
            return True
    except OSError:
        return False
