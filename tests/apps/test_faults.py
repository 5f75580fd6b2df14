"""Faults while a command runs: exit codes, one line, and what remains."""

import errno
import os
import sys

import pytest
from absl import flags

from apps import train
from apps.common import command, output_directory, work_directory
from tests.helpers.app_run import in_process
from tests.helpers.faults import another_process, no_file_above
from tfgrad import callbacks
from tfgrad.errors import InUseError, WorkerError, WriteError
from tfgrad.internal import files, ownership

SMALL = (
    *("--network=vgg4", "--width=0.1", "--per_class=2", "--batch_size=10", "--noise=0"),
    *("--test_split=test[:10]", "--progress=none"),
)


@pytest.fixture(scope="module")
def app():
    with in_process(train) as run:
        yield run


def full_disk(path="somewhere/table.md"):
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InUseError("directory: got 'a', …"), 73, "train: directory: got 'a', …"),
        (full_disk(), 74, "train: path: got 'somewhere/table.md', which cannot be written"),
        (full_disk("a/b.tmp-1-2/c.png"), 74, "train: path: got 'a/b', which cannot be written"),
        (files.cannot_write(full_disk(), "path", "a"), 74, "train: path: got 'a'"),
        (WriteError("path: got 'a', …", errno.EACCES), 64, "train: path: got 'a', …"),
        (WorkerError("TF_CONFIG: lost worker 1, …"), 75, "train: TF_CONFIG: lost worker 1, …"),
    ],
)
def test_exit_codes(monkeypatch, capsys, error, code, message):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["apps/train.py"])
    # TensorFlow's end of a distributed run would wait for the worker that is lost.
    monkeypatch.setattr(os, "_exit", sys.exit)
    flags.FLAGS.unparse_flags()
    with pytest.raises(SystemExit) as left:
        command.run(main)
    assert left.value.code == code
    printed = capsys.readouterr().err
    assert printed.startswith(message) and len(printed.splitlines()) == 1


def test_other_errors_of_files_are_not_taken_for_a_full_disk(monkeypatch):
    def main():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "images")

    monkeypatch.setattr(sys, "argv", ["apps/train.py"])
    flags.FLAGS.unparse_flags()
    with pytest.raises(FileNotFoundError):
        command.run(main)


def test_a_second_run_in_one_work_directory(app, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "history.jsonl").write_text('{"epoch": 1}\n')
    for resume in ("--resume", "--noresume"):
        with another_process(lambda: ownership.own(run / ".lock", "a", "b")) as (child, answer):
            assert answer == "True"
            assert app(*SMALL, f"--work_dir={run}", resume) == 73
        message = capsys.readouterr().err
        assert f"train: --work_dir: got '{run}', to which process {child}, since " in message
        assert (run / "history.jsonl").read_text() == '{"epoch": 1}\n'
        assert os.listdir(tmp_path) == ["run"]


def test_a_killed_owner_does_not_block_a_restart(tmp_path):
    run = str(tmp_path / "run")
    os.mkdir(run)
    owned = another_process(lambda: ownership.own(f"{run}/.lock", "a", "b"))
    with owned, pytest.raises(InUseError):
        work_directory.open_directory(run, {"seed": 1}, True)
    (tmp_path / "run" / "noise.md.tmp-1-2").write_text("half")
    work_directory.open_directory(run, {"seed": 2}, True)  # nothing was finished: replaced
    assert sorted(os.listdir(run)) == [".lock", "run.json"]
    ownership.release_all()


def test_an_error_about_another_file_is_not_one_of_the_output_directory(tmp_path):
    def write(error):
        with output_directory.written_aside(str(tmp_path / "out"), ()):
            raise error

    with pytest.raises(PermissionError) as raised:
        write(PermissionError(errno.EACCES, "Permission denied", "/images/1.png"))
    assert raised.value.filename == "/images/1.png"
    with pytest.raises(WriteError, match=r"--out: got '.*out', .*\(No space left on device"):
        write(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_run_whose_disk_is_full_keeps_its_state_and_resumes(app, tmp_path, capsys):
    run = tmp_path / "run"
    flags_of_run = (*SMALL, "--epochs=2", f"--work_dir={run}")

    class Full:
        """From the second epoch on no file can grow."""

        def __init__(self, *args):
            self.write = files.write_weights

        def __call__(self, path, model):
            if "00002" not in path:
                return self.write(path, model)
            with no_file_above(1000):
                return self.write(path, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write_weights", Full())
        assert app(*flags_of_run) == 74
    assert f"the state of epoch 1 is kept in {run}/state" in capsys.readouterr().err
    assert os.listdir(run / "state") == ["epoch-00001.weights.h5"]
    assert not {".lock", "history.jsonl.lock"} & set(os.listdir(run))
    assert app(*flags_of_run) == 0
    assert "going on after epoch 1" in capsys.readouterr().out
    assert [line["epoch"] for line in callbacks.read_json_lines(run / "history.jsonl")] == [1, 2]
