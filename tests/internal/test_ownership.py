"""One owner at a time, told apart by process, and no lock that outlives its process."""

import json
import os
import signal
import time

import pytest

from tests.helpers.faults import another_process
from tfgrad.errors import InUseError
from tfgrad.internal import ownership


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / ".lock"
    yield path
    ownership.release(path)


def own(lock):
    return ownership.own(lock, "directory", "runs/mine")


def config(index, port=1):
    cluster = {"worker": [f"a:{port}", f"b:{port}"]}
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})


def test_the_second_process_is_told_who_owns_it(lock):
    with another_process(lambda: own(lock)) as (child, answer):
        assert answer == "True"
        with pytest.raises(InUseError) as error:
            own(lock)
    message = str(error.value)
    year = time.strftime("%Y")
    assert message.startswith(
        f"directory: got 'runs/mine', to which process {child}, since {year}-"
    )
    assert message.endswith(
        "is writing; expected one writer at a time. Wait until it ends, stop it, or choose another "
        "path."
    )
    assert len(message.splitlines()) == 1


def test_this_process_may_own_it_again_and_others_may_not(lock):
    assert own(lock) and own(lock)
    with another_process(lambda: own(lock)) as (_, answer):
        assert f"InUseError: directory: got 'runs/mine', to which process {os.getpid()}" in answer
    ownership.release(lock)
    assert not lock.exists()
    with another_process(lambda: own(lock)) as (_, answer):
        assert answer == "True"


def test_what_lies_in_an_owned_directory_needs_no_lock_file(lock):
    inside, beside = lock.parent / "state" / ".lock", lock.parent / "history.jsonl.lock"
    assert own(lock) and own(inside) and own(beside)
    assert os.listdir(lock.parent) == [".lock"]
    ownership.release(lock)
    assert own(inside) and inside.exists()
    ownership.release(inside)


def test_a_killed_owner_blocks_nobody(lock):
    with another_process(lambda: own(lock)) as (child, _):
        os.kill(child, signal.SIGKILL)
    assert lock.exists()
    assert own(lock)
    assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_the_child_of_a_killed_owner_blocks_nobody(lock):
    """A process of a data loader, for instance, which was forked after the lock was taken."""

    def own_and_fork():
        own(lock)
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        return child

    with another_process(own_and_fork) as (_, grandchild):
        pass
    try:
        assert own(lock)
    finally:
        os.kill(int(grandchild), signal.SIGKILL)


def test_a_lock_that_was_moved_away_is_not_the_lock_of_its_old_name(tmp_path):
    """As a work directory that is renamed while a process waits with its lock file open."""
    old, new = tmp_path / "run", tmp_path / "run.old-1"
    old.mkdir()
    assert own(old / ".lock")
    old.rename(new)
    old.mkdir()
    assert own(old / ".lock")
    with another_process(lambda: own(old / ".lock")) as (_, answer):
        assert "InUseError" in answer
    ownership.release(old / ".lock")


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (config(1), "False"),
        (config(0), "InUseError"),
        (config(1, port=2), "InUseError"),
        ("{", "InUseError"),
    ],
)
def test_workers_of_one_run_share_and_others_do_not(lock, monkeypatch, theirs, expected):
    """A second worker with one index, another cluster and a broken description are others."""
    monkeypatch.setenv("TF_CONFIG", config(0))
    assert own(lock)
    monkeypatch.setenv("TF_CONFIG", theirs)
    with another_process(lambda: own(lock)) as (_, answer):
        assert expected in answer


def test_an_owner_that_says_nothing_of_itself(lock, monkeypatch):
    monkeypatch.setattr(ownership, "_READING_SECONDS", 0.1)

    def own_in_silence():
        own(lock)
        lock.write_text("")

    with another_process(own_in_silence), pytest.raises(InUseError, match="which another process"):
        own(lock)


def test_a_file_system_without_locks_checks_nothing(lock, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(ownership.fcntl, "flock", no_locks)
    assert own(lock)
