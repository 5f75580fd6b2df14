"""The progress of training: lines in pipes, and a live line above them in terminals."""

import itertools
import sys
import time

import keras
import numpy as np
import pytest

from tests.helpers import terminals
from tfgrad import PenalizedModel, callbacks
from tfgrad.errors import ArgumentError
from tfgrad.internal import live_line
from tfgrad.penalties import GradientNorm


def fit(*hooks, epochs=2):
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model = PenalizedModel(network, [GradientNorm(0.1)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.ones((8, 2), "float32")
    model.fit(x, np.arange(8) % 2, 2, epochs, callbacks=list(hooks), verbose=0)


@pytest.fixture
def every_step(monkeypatch):
    """Every step is drawn, as if each took a second; so does every look at the other clock."""
    for name in ("monotonic", "perf_counter"):
        clock = itertools.count()
        monkeypatch.setattr(time, name, lambda clock=clock: float(next(clock)))


def test_a_line_for_each_epoch(capsys, monkeypatch):
    now = iter([0.0, 10.0, 100.0, 120.0, 0.0, 30.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    hook = callbacks.TimeLeft(epochs=300)
    for epoch in range(3):
        hook.on_epoch_begin(epoch)
        hook.on_epoch_end(epoch, {"loss": 0.123456, "accuracy": 0.5})
    first, second, third = capsys.readouterr().out.splitlines()
    # 299 epochs of 10 s, 298 of 15 s, 297 of 20 s.
    assert first == "epoch 1/300  loss 0.1235  accuracy 0.5  10.0 s, 49:50 left"
    assert second == "epoch 2/300  loss 0.1235  accuracy 0.5  20.0 s, 1:14:30 left"
    assert third == "epoch 3/300  loss 0.1235  accuracy 0.5  30.0 s, 1:39:00 left"


def test_the_throughput_leaves_validation_out(capsys, monkeypatch):
    now = iter([0.0, 60.0, 62.0, 70.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    hook = callbacks.TimeLeft(epochs=2, examples=5000)
    hook.on_epoch_begin(0)
    for batch in range(2):
        hook.on_train_batch_end(batch, {"loss": 1.0})
    hook.on_epoch_end(0, {"loss": 1.0})
    # Two steps of 2 s, the first of which took 60 s to compile: 12 s without that.
    line = "epoch 1/2  loss 1  70.0 s, 1,250 examples/s, 0:12 left\n"
    assert capsys.readouterr().out == line


def test_what_is_compiled_is_no_part_of_the_time_left(capsys, monkeypatch):
    now = iter([0.0, 50.0, 50.0, 90.0, 95.0, 95.0, 96.0, 97.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    hook = callbacks.TimeLeft(epochs=11)
    hook.on_train_begin()
    for epoch in range(2):  # of one step, and two of validation, the first of which is compiled
        hook.on_epoch_begin(epoch)
        hook.on_train_batch_end(0)
        hook.on_test_begin()
        hook.on_test_batch_end(0)
        hook.on_test_batch_end(1)
        hook.on_epoch_end(epoch)
    before, first, second = capsys.readouterr().out.splitlines()
    assert before == "compiling the first step …"
    # 95 s less 40 s of validation; nothing tells yet what a step takes. Then 2 s an epoch.
    assert first.endswith("95.0 s, 9:10 left")
    assert second.endswith("2.0 s, 0:18 left")


def test_a_pipe_gets_lines_alone(capsys):
    fit(callbacks.TimeLeft(2))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0] == "compiling the first step …"
    assert lines[2].startswith("epoch 2/2  ")
    assert "  loss " in lines[2] and "  gradient_norm " in lines[2]
    assert lines[2].endswith(" s, 0:00 left")


def test_a_terminal_shows_the_running_epoch(every_step):
    with terminals.terminal() as shown:
        fit(callbacks.TimeLeft(2, examples=8))
    lines = shown.lines()
    # Four steps of two examples, a second each; eight steps in all.
    running = [*dict.fromkeys(line for line in lines if "steps" in line)]
    ends = ["1 of 4 steps", "4 of 4 steps  2 examples/s  0:04 left"]
    assert "compiling the first step …" in lines
    assert len(running) == 8 and all(line.startswith("epoch ") for line in running)
    assert running[0].endswith(ends[0]) and running[3].endswith(ends[1])
    assert running[4].startswith("epoch 2/2")
    assert sum("gradient_norm" in line for line in lines) >= 8 + 2
    # The lines of the epochs remain, whole; the cursor is shown again.
    assert sum(" s, 2 examples/s, " in line for line in lines) == 2
    assert shown.getvalue().rindex("\x1b[?25h") > shown.getvalue().rindex("\x1b[?25l")
    assert not live_line._open


def test_a_narrow_terminal_loses_no_metric(every_step):
    logs = {f"penalty_{i}": 0.5 for i in range(12)}
    with terminals.terminal(columns=40) as shown:
        hook = callbacks.TimeLeft(1)
        hook.set_params({"steps": 3})
        hook.on_train_begin()
        hook.on_epoch_begin(0)
        hook.on_train_batch_end(0, logs)
        hook.on_train_end()
    text = " ".join(shown.lines())
    assert all(f"{name} 0.5" in text for name in logs)
    assert max(map(len, shown.lines())) <= 40


@pytest.mark.parametrize("case", ["live=False", "a dumb terminal", "no rich"])
def test_no_live_line(case, monkeypatch):
    if case == "no rich":
        monkeypatch.setattr(live_line.importlib.util, "find_spec", lambda name: None)
    kind = "dumb" if case == "a dumb terminal" else "xterm"
    with terminals.terminal(kind=kind) as shown:
        hook = callbacks.TimeLeft(1, live=False if case == "live=False" else None)
        hook.set_params({"steps": 3})
        hook.on_train_begin()
        hook.on_epoch_begin(0)
        hook.on_train_batch_end(0, {"loss": 1.0})
        assert shown.getvalue() == "compiling the first step …\n"
        hook.on_epoch_end(0, {"loss": 1.0})
    assert shown.lines()[1].startswith("epoch 1/1  loss 1  ")


def test_one_line_at_a_time_and_a_broken_run_frees_it():
    with terminals.terminal() as shown:
        first = live_line.opened()
        assert live_line.opened() is None
        print("in between", file=sys.stdout)
        first.close()
        assert "in between" in shown.lines()
        second = live_line.opened()
        second.close()
        second.close()
    assert first and second and not live_line._open


def test_examples_are_counted():
    with pytest.raises(ArgumentError, match="examples: got 0"):
        callbacks.TimeLeft(1, examples=0)
