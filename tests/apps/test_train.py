"""`python -m apps.train`: a whole run, a killed one, and every way to refuse."""

import contextlib
import io
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import warnings

import keras
import numpy as np
import pytest

from apps import train
from apps.common import work_directory
from tests.helpers.app_run import in_process
from tfgrad import PenalizedModel, callbacks
from tfgrad.errors import ArgumentError, ResumeError, SecondOrderWarning

ROOT = pathlib.Path(__file__).parents[2]
EPOCHS = 6
SMALL = (
    "--network=vgg4",
    "--width=0.25",
    "--activation=softplus",
    "--per_class=12",
    "--batch_size=50",
    f"--epochs={EPOCHS}",
    "--gradient_norm=0.1",
    "--score_matching=1e-5",
    "--augment",
    "--normalize",
    "--weight_decay=1e-4",
    "--decay_epochs=3",
    "--noise=0,0.3",
)

UNPENALISED = ("--network=vgg4", "--width=0.25", "--per_class=12", "--batch_size=50", "--epochs=2")


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "apps.train", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    try:
        out, err = process.communicate(timeout=180)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.fixture(scope="module")
def app():
    with in_process(train) as run:
        yield run


@pytest.fixture(scope="module")
def complete(app, tmp_path_factory):
    """A work directory in which a run has gone from beginning to end, and what it printed."""
    directory, out = tmp_path_factory.mktemp("complete") / "run", io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(out):
        warnings.filterwarnings("ignore", ".*trace of the batch", SecondOrderWarning)
        assert app(*SMALL, f"--work_dir={directory}") == 0
    return directory, out.getvalue()


@pytest.fixture
def refused(app, capsys):
    """What the app writes to stderr while it exits with a code."""

    def run(code, *arguments):
        assert app(*arguments) == code
        message = capsys.readouterr().err.strip()
        assert message.startswith("train: ")
        assert "Traceback" not in message
        assert len(message.splitlines()) == 1
        return message

    return run


def record_without_times(directory):
    lines = callbacks.read_json_lines(directory / "history.jsonl")
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


# A whole run


def test_a_run_writes_everything_its_docstring_lists(complete):
    directory, out = complete
    files = set(os.listdir(directory))
    assert files == {
        "run.json",
        "history.jsonl",
        "tensorboard",
        "state",
        "network.keras",
        "model.keras",
        "results.json",
        "noise.md",
        "history.png",
    }
    assert all(name in train.__doc__ for name in files - {"tensorboard"})
    assert "TensorBoard" in train.__doc__
    assert os.listdir(directory / "state") == [f"epoch-{EPOCHS:05d}.weights.h5"]
    assert {p.name for p in (directory / "tensorboard").iterdir()} == {"train", "validation"}
    assert (directory / "history.png").read_bytes().startswith(b"\x89PNG")
    lines = record_without_times(directory)
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    assert set(lines[0]) == {
        "epoch",
        *("loss", "accuracy", "gradient_norm", "score_matching", "val_loss", "val_accuracy"),
    }
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert f"epoch {EPOCHS}/{EPOCHS}  " in out
    assert "120 training and 360 test images (8, 8, 1), 10 classes; vgg4" in out


@pytest.mark.filterwarnings("ignore:.*trace of the batch:tfgrad.errors.SecondOrderWarning")
def test_the_networks_load_and_the_results_are_theirs(complete):
    directory, _ = complete
    results = json.loads((directory / "results.json").read_text())
    model = keras.models.load_model(directory / "model.keras")
    network = keras.models.load_model(directory / "network.keras")
    assert isinstance(model, PenalizedModel)
    assert [p.name for p in model.penalties] == ["gradient_norm", "score_matching"]
    assert int(model.optimizer.iterations.numpy()) == EPOCHS * 3
    for a, b in zip(model.network.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    from tfgrad import data

    test = data.load("digits", "test")
    statistics = [np.array(s, "float32") for s in results["normalize"]]
    mean, deviation = data.channel_statistics(data.subset(data.load("digits"), 12, 0))
    np.testing.assert_allclose(statistics, [mean, deviation], rtol=1e-6)
    logits = network.predict((test.images - statistics[0]) / statistics[1], verbose=0)
    accuracy = np.mean(logits.argmax(1) == test.labels)
    assert results["noise"][0] == {
        "sigma": 0.0,
        "accuracy": pytest.approx(accuracy),
        "deviation": 0,
    }
    assert results["test"]["val_accuracy"] == pytest.approx(accuracy)
    assert results["noise"][1]["sigma"] == 0.3
    label = "gradient norm 0.1, score matching 1e-05, weight decay 0.0001"
    assert results["label"] == label
    row = (directory / "noise.md").read_text().splitlines()[2]
    assert row.startswith(f"| {label} | {100 * accuracy:.2f} | ")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*trace of the batch:tfgrad.errors.SecondOrderWarning")
def test_killed_and_resumed_is_uninterrupted_bit_by_bit(complete, app, capsys, tmp_path):
    directory = tmp_path / "killed"
    process = start(*SMALL, "--progress=none", f"--work_dir={directory}")
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        # A state that is complete, not one that is being written under its temporary name.
        if list(directory.glob("state/epoch-?????.weights.h5")):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    code, _, err = finish(process)
    assert code == -signal.SIGKILL, err
    done = len(record_without_times(directory))
    assert 1 <= done < EPOCHS  # Else nothing is tested.
    assert not (directory / "results.json").exists()
    assert app(*SMALL, f"--work_dir={directory}") == 0
    assert "going on after epoch" in capsys.readouterr().out
    assert record_without_times(directory) == record_without_times(complete[0])
    a, b = (keras.models.load_model(d / "model.keras") for d in (directory, complete[0]))
    assert len(a.variables) == len(b.variables)
    for mine, its in zip(
        [*a.network.variables, *a.optimizer.variables, a._draws_made],
        [*b.network.variables, *b.optimizer.variables, b._draws_made],
        strict=True,
    ):
        np.testing.assert_array_equal(mine.numpy(), its.numpy())
    one, other = ((d / "noise.md").read_text() for d in (directory, complete[0]))
    assert one == other


# The same directory again


def test_a_complete_run_is_not_run_again(complete, app, capsys):
    directory, _ = complete
    before = (directory / "model.keras").stat().st_mtime_ns
    assert app(*SMALL, f"--work_dir={directory}", "--progress=none") == 0
    assert "this run is complete" in capsys.readouterr().out
    assert (directory / "model.keras").stat().st_mtime_ns == before


def test_other_flags_are_refused(complete, refused):
    directory, _ = complete
    before = (directory / "run.json").read_text()
    message = refused(64, *SMALL, "--learning_rate=0.1", "--sigma=0.5", f"--work_dir={directory}")
    assert "--learning_rate was 0.001, now 0.1" in message
    assert "--sigma was 0.01, now 0.5" in message
    assert "--progress" not in message
    assert "--noresume" in message
    assert (directory / "run.json").read_text() == before


def test_noresume_puts_the_old_run_aside(tmp_path):
    path = tmp_path / "run"
    for number in range(3):
        work_directory.open_directory(f"{path}/", {"epochs": number}, resume=False)
        (path / "state").mkdir()
    old = [
        work_directory.read_json(p / "run.json")["flags"]["epochs"]
        for p in sorted(tmp_path.iterdir())
    ]
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["run", "run.old-1", "run.old-2"]
    assert old == [2, 0, 1]


def test_flags_of_a_run_that_finished_no_epoch_may_change(tmp_path):
    path = str(tmp_path / "run")
    work_directory.open_directory(path, {"learning_rate": 1e30}, resume=True)
    (tmp_path / "run" / "history.jsonl").touch()
    (tmp_path / "run" / "run.json.tmp-1-2").touch()  # of a process killed while it wrote run.json
    (tmp_path / "run" / "tensorboard").mkdir()
    work_directory.open_directory(path, {"learning_rate": 1e-3}, resume=True)
    (tmp_path / "run" / "state").mkdir()
    with pytest.raises(ResumeError, match=r"--learning_rate was 0.001, now 1e\+30"):
        work_directory.open_directory(path, {"learning_rate": 1e30}, resume=True)


def test_what_is_compared(tmp_path):
    path = str(tmp_path / "run")
    asked = {"noise": ("0", "1"), "work_dir": "a", "progress": "none", "per_class": None}
    work_directory.open_directory(path, asked, resume=True)
    (tmp_path / "run" / "state").mkdir()
    # A tuple comes back from JSON as a list; where and how loudly does not matter.
    work_directory.open_directory(
        path, {**asked, "work_dir": "b", "progress": "batch"}, resume=True
    )
    with pytest.raises(ResumeError, match=r"--per_class was None, now 3"):
        work_directory.open_directory(path, {**asked, "per_class": 3}, resume=True)
    with pytest.raises(ResumeError, match=r"--new was None, now 0.5"):  # A newer version's flag.
        work_directory.open_directory(path, {**asked, "new": 0.5}, resume=True)
    record = work_directory.read_json(tmp_path / "run" / "run.json")
    assert {"tfgrad", "tensorflow", "keras", "numpy", "python"} <= set(record["versions"])
    (tmp_path / "run" / "run.json").write_text('{"flags": {')
    with pytest.raises(ResumeError, match=r"run.json' is damaged; remove it"):
        work_directory.open_directory(path, asked, resume=True)


# Refusals


def test_a_directory_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        message = refused(64, *SMALL, f"--work_dir={path}")
        assert f"--work_dir: got '{path}', which cannot be written" in message
        assert "Try again at a path where you may create files" in message


def test_a_directory_that_cannot_be_moved_aside(tmp_path, monkeypatch):
    work_directory.open_directory(str(tmp_path / "run"), {}, resume=True)

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(work_directory.os, "rename", denied)
    with pytest.raises(ArgumentError, match=r"cannot be written \(Permission denied\)"):
        work_directory.open_directory(str(tmp_path / "run"), {}, resume=False)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--nonsense=1", "Unknown command line flag 'nonsense'; see --help"),
        ("--epoch=3", "; did you mean --epochs? See --help"),
        ("--epochs=0", "flag --epochs=0: 0 is not a positive integer; see --help"),
        ("--network=vgg5", "--network: got 'vgg5'; did you mean 'vgg"),
        ("digits", "unexpected argument 'digits'; see --help"),
        ("--target=true", "target: got 'true'; expected one of 'label', 'predicted', 'all'"),
        ("--noise=0,much", "--noise: got 0,much; expected numbers ≥ 0"),
        ("--noise=-0.1", "--noise: got -0.1; expected numbers ≥ 0"),
        ("--decay_epochs=2.5", "--decay_epochs: got 2.5; expected integers ≥ 0"),
        ("--image_size=32", "--image_size: got 32; expected HEIGHT,WIDTH"),
        ("--width=0", "width: got 0.0; expected a finite number above 0"),
        ("--sigma=0", "sigma: got 0.0; expected a finite number above 0"),
        ("--seed=-1", "flag --seed=-1: -1 is not an integer in the range [0, 4294967295]"),
        ("--devices=0", "devices: got 0"),
        ("--per_class=0", "per_class: got 0; expected an integer ≥ 1"),
        ("--network=vgg9", "--image_size: got (8, 8, 1); expected height and width of at least"),
    ],
)
def test_usage(refused, tmp_path, flag, message):
    strategy = ["--strategy=mirrored"] if "devices" in flag else []
    found = refused(64, *SMALL, flag, *strategy, f"--work_dir={tmp_path}/run")
    assert message in found
    is_late = flag in ("--width=0", "--network=vgg9")  # found as the network is built
    assert (tmp_path / "run").exists() == is_late


def test_data(refused, tmp_path):
    run = f"--work_dir={tmp_path}/run"
    message = refused(65, *SMALL, "--per_class=9999", run)
    assert "per_class: got 9999; expected at most" in message and "Lower --per_class" in message
    message = refused(65, *SMALL, "--test_split=tset", run)
    assert "split: got 'tset', which is unknown for 'digits'; expected 'train', 'test'" in message


def test_an_unknown_data_set(refused, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    message = refused(65, *SMALL, "--dataset=cifar1O", f"--work_dir={tmp_path}/run")
    assert "--dataset: got 'cifar1O', of which there is no folder here" in message
    assert "cifar10" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_loss_that_is_not_finite(refused, monkeypatch, tmp_path):
    directory = tmp_path / "run"
    arguments = [*UNPENALISED, "--progress=none", f"--work_dir={directory}"]
    message = refused(70, *arguments, "--learning_rate=1e30")
    assert "of epoch 1" in message
    assert f"no epoch was finished, so {directory / 'state'} holds no state" in message
    assert "Try a lower learning rate" in message
    assert not (directory / "state").exists()
    # And after a good epoch its state is kept: the data turn bad in the second.
    epochs = itertools.count()

    class Blowup(callbacks.JsonLines):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            if next(epochs) == 1:
                self.model.network.layers[1].kernel.assign_add(
                    np.full(self.model.network.layers[1].kernel.shape, 3e38, "float32")
                )

    monkeypatch.setattr(callbacks, "JsonLines", Blowup)
    message = refused(70, *arguments)
    assert "of epoch 2" in message
    assert f"the state of epoch 1 is kept in {directory / 'state'}" in message
    assert os.listdir(directory / "state") == ["epoch-00001.weights.h5"]
    monkeypatch.undo()
    assert not (directory / "results.json").exists()


@pytest.mark.slow
def test_help():
    code, out, err = finish(start("--help"))
    assert code == 0, err
    assert out.startswith(train.__doc__.split("\n")[0])
    assert "Exit codes: 0 done, 64 usage" in out
    # The app's own flags and those it shares with others.
    for flag in ("work_dir", "[no]resume", "epochs", "dataset", "network", "gradient_norm"):
        assert f"\n  --{flag}: " in out
