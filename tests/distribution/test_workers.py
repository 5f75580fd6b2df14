"""Several workers: who is missing, who has the same address, and what a lost one leaves."""

import json
import re
import socket
import threading

import pytest

from tests.distribution.test_replicas import run
from tfgrad import distribution
from tfgrad.distribution import workers
from tfgrad.errors import ArgumentError, WorkerError


def free_addresses(count):
    probes = [socket.create_server(("localhost", 0)) for _ in range(count)]
    addresses = [f"localhost:{probe.getsockname()[1]}" for probe in probes]
    for probe in probes:
        probe.close()
    return addresses


def described(addresses, index):
    task = {"type": "worker", "index": index}
    return json.dumps({"cluster": {"worker": addresses}, "task": task})


@pytest.mark.parametrize("index", [0, 1])
def test_a_worker_that_does_not_start_is_named(monkeypatch, index):
    addresses = free_addresses(2)
    monkeypatch.setenv("TF_CONFIG", described(addresses, index))
    missing = f"{1 - index} ({addresses[1 - index]}) did not start within 0.3 s"
    with pytest.raises(WorkerError, match=re.escape(missing)):
        distribution.strategy("multi_worker", join_seconds=0.3)


def test_a_second_worker_with_the_same_index_is_told_so(monkeypatch):
    addresses = free_addresses(2)
    monkeypatch.setenv("TF_CONFIG", described(addresses, 0))
    port = int(addresses[0].rpartition(":")[2])
    message = rf"index 0 with the address '{addresses[0]}', at which it .* \(Address already in use"
    with socket.create_server(("", port)), pytest.raises(WorkerError, match=message):
        distribution.strategy("multi_worker")


def test_workers_that_start_one_after_the_other_find_each_other(monkeypatch):
    """The first one listens while it waits; once it sees the others, TensorFlow takes its place."""
    addresses, made = free_addresses(2), []
    port = int(addresses[0].rpartition(":")[2])

    def strategy():
        made.append(socket.create_server(("", port)))

    monkeypatch.setattr(workers.tf.distribute, "MultiWorkerMirroredStrategy", strategy)
    monkeypatch.setenv("TF_CONFIG", described(addresses, 0))
    waiting = threading.Thread(target=workers.joined, args=(30.0,))
    waiting.start()
    with workers._listening(addresses[1], 1):
        workers._wait_for(addresses[:1], addresses, 30.0)
        waiting.join()
    (server,) = made
    server.close()


def test_who_is_missing_is_printed_while_waiting(monkeypatch, capsys):
    monkeypatch.setattr(workers, "_SECONDS_OF_SILENCE", 0.0)
    addresses = free_addresses(2)
    with pytest.raises(WorkerError):
        workers._wait_for(addresses[1:], addresses, 0.5)
    assert capsys.readouterr().err == f"waiting for worker 1 ({addresses[1]})\n"


@pytest.mark.parametrize(
    ("addresses", "index", "fault"),
    [
        (["a:1", "b:1"], 2, "task.index is 2, not in 0 … 1"),
        (["a:1", "b:1"], True, "task.index is True"),
        (["a:1", "b:1"], "0", "task.index is '0'"),
        (["a:1", "a:1"], 0, "two workers have one address"),
        (["a", "b:1"], 0, "the address 'a' has no port"),
        ("a:1", 0, "cluster.worker is not a list"),
        ([], 0, "cluster.worker is not a list"),
    ],
)
def test_the_fault_of_tf_config_is_named(monkeypatch, addresses, index, fault):
    monkeypatch.setenv("TF_CONFIG", described(addresses, index))
    with pytest.raises(ArgumentError, match=re.escape(f"({fault}")):
        distribution.strategy("multi_worker")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_survivor_of_a_killed_worker_says_who_is_gone(tmp_path, victim):
    addresses = free_addresses(2)
    processes = [
        run(
            [
                *("-m", "apps.train", "--network=vgg4", "--width=0.25", "--nobatch_norm"),
                *("--optimizer=sgd", "--epochs=100000", "--batch_size=100"),
                *("--train_split=train[:230]", "--strategy=multi_worker"),
                f"--work_dir={tmp_path / 'run'}",
            ],
            TF_CONFIG=described(addresses, index),
        )
        for index in range(2)
    ]
    survivor = processes[1 - victim]
    try:
        for line in survivor.stdout:
            if line.startswith("epoch 2/"):
                break
        processes[victim].kill()
        rest, _ = survivor.communicate(timeout=120)
    finally:
        for process in processes:
            process.kill()
        processes[victim].communicate()
    assert survivor.returncode == 75, rest
    message = rest.splitlines()[-1]
    assert message.startswith(f"train: TF_CONFIG: lost worker {victim} ({addresses[victim]})")
    own = tmp_path / "run" if victim else tmp_path / "run" / "worker-1"
    kept = re.search(rf"the state of epoch (\d+) is kept in {re.escape(str(own))}/state\.", message)
    assert (own / "state" / f"epoch-{int(kept[1]):05d}.weights.h5").exists()
    assert "Traceback" not in rest
