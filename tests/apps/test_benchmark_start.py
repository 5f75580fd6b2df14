"""`apps.benchmark --suite=start`: first calls, each in a process of its own."""

import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from apps.benchmark import __main__ as benchmark
from apps.benchmark import first_calls, starts, timing
from tests.helpers.app_run import in_process
from tfgrad import penalties, saliency

IMAGES = tf.constant(np.random.default_rng(0).uniform(size=(2, 6, 6, 3)), tf.float32)


def build():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(3, 3, activation="relu", name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(4)(x))


def figures(part, way, path=""):
    setting = first_calls.Setting(build, IMAGES, str(path))
    return first_calls.PARTS[part].ways[way](setting)


def test_nodes_of_functions_that_a_graph_calls_count():
    inner = tf.function(lambda x: tf.sin(x) + 1.0, autograph=False)

    @tf.function(autograph=False)
    def outer(x):
        return inner(x) * 2.0

    traced = outer.get_concrete_function(tf.TensorSpec([]))
    assert len(traced.graph.get_operations()) == 5  # x, the call, 2, ×, the result
    # And of the inner one sin, 1, + and the result; its argument is none.
    assert first_calls.nodes(traced) == 5 + 4


def test_nodes_are_those_of_what_runs():
    method = saliency.FullGrad(build())
    method(IMAGES)
    (function,) = method._shapes.functions().values()
    fullgrad = figures("nodes", "FullGrad")["nodes"]
    assert fullgrad == first_calls.nodes(function)
    gradient = first_calls.stock_gradient(build())
    stock = figures("nodes", "input-gradient")["nodes"]
    assert 20 < stock == first_calls.nodes(gradient.get_concrete_function()) < fullgrad
    expected = saliency.InputGradient(build(), reduce="sum")(IMAGES)
    np.testing.assert_allclose(tf.reduce_sum(gradient(IMAGES), -1), expected, rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("part", ["maps", "fit"])
def test_first_calls_have_seconds(part):
    for way in first_calls.PARTS[part].ways:
        found = figures(part, way)
        assert list(found) == ["seconds", "cpu_seconds"] and min(found.values()) > 0


@pytest.mark.long
def test_exports_are_what_is_loaded(tmp_path, monkeypatch):
    served = {}
    monkeypatch.setattr(first_calls, "timed", lambda call: ({"seconds": 1.0}, call()))
    for way in ("Keras", "tfgrad"):
        found = figures("export", way, tmp_path / way)
        size = (tmp_path / way / ("1" if way == "tfgrad" else ".") / "saved_model.pb").stat()
        assert found["graph_megabytes"] == size.st_size / 1e6
        loaded = []
        monkeypatch.setattr(tf.saved_model, "load", loaded.append)
        figures("load", way, found["path"])
        monkeypatch.undo()
        monkeypatch.setattr(first_calls, "timed", lambda call: ({"seconds": 1.0}, call()))
        served[way] = set(tf.saved_model.load(*loaded).signatures)
    methods = {"fullgrad", "input_gradient"}
    assert served["tfgrad"] == {"serving_default", "encoded", *methods}
    assert served["Keras"] == {"serving_default", "serve"}


def test_the_step_written_by_hand_is_that_of_a_gradient_norm():
    after = []
    labels = np.array([0, 1], np.int32)
    for wrapped in (
        lambda network: first_calls.DoubleBackward(network.inputs, network.outputs),
        lambda network: tfgrad.PenalizedModel(network, [penalties.GradientNorm(1e-3)]),
    ):
        network = build()
        model = wrapped(network)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # A rate at which the penalty moves the weights by more than rounding does.
        model.compile(keras.optimizers.SGD(100.0), loss, jit_compile=False)
        model.fit(IMAGES.numpy(), labels, batch_size=2, verbose=0)
        after.append(network.get_layer("conv").kernel.numpy())
    np.testing.assert_allclose(*after, rtol=1e-4, atol=1e-4)


class Processes:
    """Stands in for new processes: known figures, and the order in which they are asked for."""

    def __init__(self, failing=None):
        self.asked, self.paths, self.failing = [], [], failing

    def __call__(self, process, path):
        asked = process.removeprefix("--start_of=")
        self.asked.append(asked)
        self.paths.append(path.removeprefix("--start_path="))
        if asked == self.failing:
            lines = "".join(f"line {n}\n" for n in range(9))
            return timing.Outcome(1, None, lines)
        part, way, _ = asked.split(":")
        size = 1 + list(first_calls.PARTS[part].ways).index(way)
        if part == "nodes":
            return timing.Outcome(0, {"nodes": 100 * size}, "")
        seconds = 10.0 * size + self.asked.count(asked)
        found = {"seconds": seconds, "cpu_seconds": 2 * seconds}
        if part == "export":
            found |= {"graph_megabytes": 1.5 * size, "path": f"{way}.{self.asked.count(asked)}"}
        return timing.Outcome(0, found, "")


def test_processes_take_turns_and_ratios_are_taken_within_a_round(monkeypatch, capsys):
    processes, saved = Processes(), []
    monkeypatch.setattr(timing, "of_new_process", processes)
    parts = ["load", "export", "nodes"]
    record, table = starts.measured(["a", "b"], parts, 2, lambda one: saved.append(json.dumps(one)))
    ways = ("Keras", "tfgrad", "tfgrad, five methods")
    of_a = ["nodes:input-gradient:a", "nodes:FullGrad:a"]
    of_a += [f"{part}:{way}:a" for part in ("export", "load") for _ in range(2) for way in ways]
    assert processes.asked == of_a + [one.replace(":a", ":b") for one in of_a]
    # The last of the exports is loaded.
    assert processes.paths[8:11] == [f"{way}.2" for way in ways]
    assert len(saved) == 6 and json.loads(saved[-1]) == record
    assert list(record["start"]) == ["a", "b"] and list(record["start"]["a"]) == sorted(
        parts, key=list(first_calls.PARTS).index
    )
    rows = record["start"]["b"]
    assert rows["nodes"]["FullGrad"]["nodes"] == {
        "median": 200,
        "ratio": 2,
        "ratio_quartiles": [2, 2],
        "bound": 1.6,
    }
    export = rows["export"]["tfgrad"]
    assert set(export) == {"seconds", "cpu_seconds", "graph_megabytes"}
    # 21 / 11 and 22 / 12.
    assert export["seconds"]["median"] == 21.5 and export["seconds"]["ratio"] == 1.871
    assert export["seconds"]["bound"] == 1.8 and export["cpu_seconds"]["bound"] is None
    assert "| b | export: tfgrad | 21.5 s | 1.871 | 1.852 to 1.89 | 1.8 | 43.0 | 1.871 |" in table
    assert "| b | export, size of the graph: tfgrad | 3.0 MB | 2.0 | 2.0 to 2.0 |" in table
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("compiling a, nodes of the graph: input-gradient: about 12 s (")
    assert printed[2] == "a, nodes of the graph: FullGrad 200 nodes, 2.0 × input-gradient"


def test_exports_are_written_for_loading_alone(monkeypatch):
    processes = Processes()
    monkeypatch.setattr(timing, "of_new_process", processes)
    record, _ = starts.measured(["a"], ["load"], 2, lambda _: None)
    parts = [asked.partition(":")[0] for asked in processes.asked]
    assert parts == ["export", "load"] * 3 + ["load"] * 3
    assert list(record["start"]["a"]) == ["load"]


def test_the_time_left_is_that_of_earlier_rounds_and_else_scaled(monkeypatch):
    seconds = iter([0.0, 24.0, 24.0, 30.0])
    monkeypatch.setattr(starts.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(timing, "of_new_process", Processes())
    stock, fullgrad = ("a", "nodes", "input-gradient"), ("a", "maps", "FullGrad")
    schedule = starts.Schedule([stock, fullgrad])
    assert schedule.expected(fullgrad) == first_calls.PARTS["maps"].seconds == 14
    schedule.run(stock, starts.Exports(""))
    assert schedule.expected(stock) == 24 and schedule.expected(fullgrad) == 14 * 24 / 12
    schedule.run(fullgrad, starts.Exports(""))
    assert schedule.expected(fullgrad) == 6 and schedule.left == []


def test_a_process_that_fails_is_named_with_its_last_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "of_new_process", Processes(failing="maps:FullGrad:vgg4"))
    out = tmp_path / "made" / "start.json"
    with in_process(benchmark) as run:
        assert run("--suite=start", "--models=vgg4", "--parts=maps,nodes", f"--out={out}") == 65
    error = capsys.readouterr().err
    assert error.startswith(
        "benchmark: --models: got 'vgg4', whose process for 'first map: FullGrad' ended with exit "
        "code 1; expected "
    )
    assert error.endswith("\n  line 4\n  line 5\n  line 6\n  line 7\n  line 8\n")
    # What was measured before it is kept.
    assert list(json.loads(out.read_text())["start"]["vgg4"]) == ["nodes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models=MobilNetV2",), "--models: got 'MobilNetV2'; did you mean 'MobileNetV2'?"),
        (("--parts=map",), "--parts: got 'map'; did you mean 'maps'?"),
        (("--start_of=maps:Keras:vgg4",), "--start_of: got 'maps:Keras:vgg4'; expected PART:WAY"),
    ],
)
def test_unknown_names_are_refused(arguments, message, capsys):
    with in_process(benchmark) as run:
        assert run("--suite=start", *arguments) == 64
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_measures_what_it_is_asked(monkeypatch):
    small = ("--suite=start", "--width=0.1", "--side=8")
    monkeypatch.setattr(sys, "argv", ["apps/benchmark/__main__.py", *small])
    outcome = timing.of_new_process("--start_of=nodes:input-gradient:vgg4", "--start_path=")
    network = tfgrad.models.get("vgg4", (8, 8, 3), 10, width=0.1)
    expected = first_calls.nodes(first_calls.stock_gradient(network).get_concrete_function())
    assert outcome == (0, {"nodes": expected}, "")


@pytest.mark.slow
def test_start(tmp_path, capsys):
    small = ("--suite=start", "--models=vgg4", "--width=0.1", "--side=8", "--rounds=1")
    out = tmp_path / "start.json"
    with in_process(benchmark) as run:
        assert run(*small, f"--out={out}") == 0
    found = json.loads(out.read_text())["start"]["vgg4"]
    assert {part: set(rows) for part, rows in found.items()} == {
        name: set(part.ways) for name, part in first_calls.PARTS.items()
    }
    every = [one for rows in found.values() for row in rows.values() for one in row.values()]
    assert all(one["median"] > 0 and one["ratio"] > 0 for one in every)
    assert "| vgg4 | first step of fit: GradientNorm | " in capsys.readouterr().out
