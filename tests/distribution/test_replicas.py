"""What holds on one device holds on n replicas and on several workers, ragged batches included."""

import functools
import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps import train
from tests.helpers import replica_run
from tests.helpers.app_run import in_process
from tests.helpers.arrays import arrays_of
from tests.helpers.variants import with_slow
from tfgrad import callbacks, distribution
from tfgrad.errors import ArgumentError

ROOT = pathlib.Path(__file__).parents[2]


def run(arguments, **environment):
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-4000:]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """What one device computes, by the penalties."""

    @functools.cache
    def results(which):
        out = tmp_path_factory.mktemp("replicas") / "one.npz"
        replica_run.main(1, "arrays", which, out)
        return arrays_of(out)

    return results


# Two strategies of different size in one process abort, so every count has its own.
@pytest.mark.long
@pytest.mark.parametrize(
    ("replicas", "feed", "penalties"),
    with_slow(
        [(2, "arrays", "few")],
        [(2, "arrays", "every"), (4, "slices", "every"), (4, "arrays", "every")],
    ),
)
def test_replicas_take_the_step_of_one_device(one_device, tmp_path, replicas, feed, penalties):
    """12 SGD steps, sample weights, batches of 16, 16, 16 and 2 examples."""
    out = tmp_path / "out.npz"
    finish(run(["-m", "tests.helpers.replica_run", str(replicas), feed, penalties, out]))
    one_device, many = one_device(penalties), arrays_of(out)
    assert set(many) == set(one_device)
    for name in one_device:
        one, other = one_device[name], many[name]
        if name.startswith("arr_"):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-6, err_msg=name)
        # A trace estimate is a difference of logits divided by σ² = 0.01: rounding of 1e-7 in a
        # logit is 2e-5 in one example's trace, and some tenth of that in a mean over 50.
        elif "score" in name or "antithetic" in name:
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_replica_run_moves_the_weights(one_device):
    one_device = one_device("few")
    before = [v.numpy() for v in replica_run.network().weights]
    moved = [np.abs(one_device[f"arr_{i}"] - w).max() for i, w in enumerate(before)]
    assert min(moved) > 1e-3


@pytest.mark.long
def test_two_workers_through_the_app_equal_one_process(tmp_path):
    """The same global batches of 100, 100 and 30 on two processes and on one."""
    common = [
        *("--network=vgg4", "--width=0.25", "--nobatch_norm"),
        *("--activation=softplus", "--optimizer=sgd", "--learning_rate=0.02", "--epochs=2"),
        *("--batch_size=100", "--train_split=train[:230]"),
        *("--gradient_norm=0.1", "--score_matching=0.0001"),
    ]
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            ports.append(probe.getsockname()[1])
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    workers = [
        run(
            [
                "-m",
                "apps.train",
                *common,
                "--strategy=multi_worker",
                f"--work_dir={tmp_path / 'workers'}",
            ],
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}}),
        )
        for i in range(2)
    ]
    finish(*workers)
    with in_process(train) as alone:
        assert alone(*common, f"--work_dir={tmp_path / 'one'}") == 0
    weights = [
        [v.numpy() for v in keras.models.load_model(path / "network.keras").weights]
        for path in (
            tmp_path / "workers",
            tmp_path / "workers" / "worker-1",
            tmp_path / "one",
        )
    ]
    for chief, worker, alone in zip(*weights, strict=True):
        np.testing.assert_array_equal(worker, chief)
        np.testing.assert_allclose(alone, chief, rtol=0, atol=1e-6)
    records = [
        callbacks.read_json_lines(tmp_path / name / "history.jsonl") for name in ("workers", "one")
    ]
    for many, one in zip(*records, strict=True):
        for name in ("loss", "accuracy", "gradient_norm", "val_loss", "val_accuracy"):
            assert many[name] == pytest.approx(one[name], rel=1e-5), name


def test_strategy_names():
    assert distribution.strategy().num_replicas_in_sync == 1
    with pytest.raises(ArgumentError, match="strategy: got 'tpu'; expected one of 'one_device'"):
        distribution.strategy("tpu")


@pytest.mark.parametrize("devices", [0, -1, 1.5])
def test_device_count_is_checked(devices):
    with pytest.raises(ArgumentError, match="devices: got"):
        distribution.strategy("mirrored", devices)


def test_more_logical_cpus_than_tensorflow_started_with():
    if tf.config.list_physical_devices("GPU"):
        expected = "this machine has"
    else:
        tf.zeros([1])
        expected = "before any tensor or variable"
    with pytest.raises(ArgumentError, match=expected):
        distribution.strategy("mirrored", 64)


@pytest.mark.parametrize(
    "config",
    [
        None,
        "",
        "{",
        "{}",
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 3}}',
    ],
)
def test_tf_config_is_checked(monkeypatch, config):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ArgumentError, match=r'TF_CONFIG.*"cluster"'):
        distribution.strategy("multi_worker")


def test_an_empty_share_is_filled_and_a_full_one_is_not():
    filled = distribution.one_at_least({"x": tf.zeros([0, 3]), "y": tf.ones([2], tf.int32)})
    assert filled["x"].shape == (1, 3)
    assert filled["y"].shape == (2,)


def test_alone_a_replica_holds_the_whole_batch():
    share = distribution.share_of(tf.zeros([5, 2]))
    assert (int(share.size), int(share.total), int(share.offset), share.replicas) == (5, 5, 0, 1)
