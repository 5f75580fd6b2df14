"""`python -m apps.reproduce`: what is declared can be built, and cells are run once."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from apps import experiments, reproduce, tables
from apps.experiments import toy, training
from apps.experiments.declarations import (
    ACCURACY,
    Cell,
    Experiment,
    Row,
    Source,
    Term,
    Training,
    declaration,
    digest,
    paper,
)
from apps.experiments.distillation import LAYERS
from tests.app_run import in_process
from tfgrad import data, models, penalties
from tfgrad.errors import ArgumentError, ModelError, ResumeError

IMAGES = [
    name
    for name in experiments.DECLARED
    if isinstance(experiments.declared(name, "small"), Experiment)
]
BOTH = [(name, scale) for name in experiments.DECLARED for scale in experiments.SCALES]
MATCHED = Term("ActivationMatching", 1.0)
SHORT = Training(epochs=2, drops=(1,), batch_size=16)


def tiny(**changes):
    """Two rows on the digits, with a teacher that is trained on the spot."""
    rows = (
        Row("Cross-entropy", paper=paper((3, 5), "50±1 60")),
        Row("Match activations", (MATCHED,), paper=paper((3, 5), "55±1 65")),
    )
    defaults = {
        "name": "tiny",
        "title": "A tiny table",
        "scale": "small",
        "dataset": "digits",
        "student": "vgg4",
        "width": 0.1,
        "training": SHORT,
        "sizes": ((3, 2), (5, 1)),
        "rows": rows,
        "teacher": Source("vgg4", 0.1, "digits", SHORT),
    }
    return Experiment(**{**defaults, **changes})


def run(table, work_dir, **options):
    return reproduce.run(table, str(work_dir), training.Options(**options), table.cells())


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A work directory in which every cell of the tiny table is done."""
    work_dir = tmp_path_factory.mktemp("complete") / "tiny"
    return work_dir, run(tiny(), work_dir)


class FakeBench:
    """As much of a bench as building a student takes."""

    def __init__(self, table, image_shape, classes):
        self.experiment, self.classes = table, classes
        self.teacher = self.pretrained = None
        if table.teacher:
            side = table.image_size or (32, 32)
            network = models.get(table.teacher.network, (*side, 3), 7, width=0.01)
            self.teacher = type("Learned", (), {"network": network})()
        if table.pretrained:
            network = models.get(table.pretrained.network, image_shape, 4, width=0.01)
            self.pretrained = type("Learned", (), {"network": network})()


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("scale", experiments.SCALES)
def test_every_row_of_every_experiment_can_be_built(name, scale):
    table = experiments.declared(name, scale)
    side = (64, 64) if table.image_size else (32, 32)
    table = dataclasses.replace(table, width=0.01, image_size=side)
    bench = FakeBench(table, (*side, 3), classes=7)
    for row in table.rows:
        network = training.build_student(bench, row, (*side, 3))
        built = [training.build_penalty(term) for term in row.terms]
        assert [type(p).__name__ for p in built] == [term.penalty for term in row.terms]
        assert [p.weight for p in built] == [term.weight for term in row.terms]
        for term in row.terms:
            for layer in term.options.get("layers", ()):
                if isinstance(layer, str):
                    assert network.get_layer(layer).bias is not None
                    continue
                models_ = (network, bench.teacher.network)
                shapes = [m.get_layer(n).output.shape for m, n in zip(models_, layer, strict=True)]
                assert shapes[0][1] == shapes[1][1]


@pytest.mark.parametrize("name, row", [("t4.2", 6), ("t2.3", 5)])
def test_the_richest_rows_hear_all_that_the_teacher_says(name, row):
    table = dataclasses.replace(experiments.declared(name, "small"), width=0.01, image_size=None)
    bench = FakeBench(table, (32, 32, 3), classes=7)
    terms = table.rows[row].terms
    network = training.build_student(bench, table.rows[row], (32, 32, 3))
    model = training.penalized(bench, network, terms)
    y = np.zeros(1, "int32")
    labels = {"target": y} if table.rows[row].two_heads else y
    assert len(model.lessons(np.zeros((1, 32, 32, 3), "float32"), labels).taught) >= len(terms)


@pytest.mark.parametrize("name, scale", BOTH)
def test_declarations_are_consistent(name, scale):
    table = experiments.declared(name, scale)
    assert (table.name, table.scale) == (name, scale)
    ids = [cell.id for cell in table.cells()]
    assert len(ids) == len(set(ids)) == len(table.rows) * sum(seeds for _, seeds in table.sizes)
    keys = {metric.key for metric in table.metrics}
    for row in table.rows:
        assert set(row.paper) <= keys
        for numbers in row.paper.values():
            for mean, deviation in numbers.values():
                assert 0 < mean < 100
                assert deviation is None or 0 <= deviation < 5
    assert table.summary()


def test_the_small_scale_has_sizes_for_which_the_paper_has_numbers():
    for name in ("t2.1", "t2.3", "t2.4", "t2.5", "t4.1", "t4.2", "t4.3", "f4.1b"):
        table = experiments.declared(name, "small")
        for row in table.rows:
            assert {size for size, _ in table.sizes} <= set(row.paper[ACCURACY])


def test_cells_run_size_by_size_then_seed_by_seed_then_row_by_row():
    cells = tiny().cells()
    assert [(c.size, c.seed) for c in cells] == [(3, 0)] * 2 + [(3, 1)] * 2 + [(5, 0)] * 2
    assert [c.row.label for c in cells[:2]] == ["Cross-entropy", "Match activations"]


def test_constants_of_the_seven_rows_are_ten():
    for row in experiments.declared("t4.2", "small").rows:
        assert {row.supervised, *(term.weight for term in row.terms)} == {10.0}


def test_a_run_from_the_first_cell_to_the_table(complete):
    work_dir, records = complete
    assert set(records) == {cell.id for cell in tiny().cells()}
    for record in records.values():
        assert 0 <= record[ACCURACY] <= 1
        assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2]
        assert record["final"]["loss"] == record["epochs"][-1]["loss"]
    assert "activation_matching" in records["5-seed0-match_activations"]["final"]
    text = (work_dir / "tiny.md").read_text()
    values = [100 * records[f"3-seed{seed}-cross_entropy"][ACCURACY] for seed in (0, 1)]
    assert f"{np.mean(values):.2f} ± {np.std(values):.2f} (n=2) | 50 ± 1 |" in text
    single = 100 * records["5-seed0-cross_entropy"][ACCURACY]
    assert f"| {single:.2f} (n=1) | 60 |" in text
    content = json.loads((work_dir / "tiny.json").read_text())
    column = content["rows"][0]["columns"][0]
    assert column["values"] == pytest.approx(values)
    assert column["deviation"] == pytest.approx(abs(values[0] - values[1]) / 2)
    assert (content["cells_done"], content["cells"]) == (6, 6)
    assert (work_dir / "teachers" / "vgg4-digits.keras").exists()


def test_what_is_done_is_not_done_again(complete, monkeypatch):
    work_dir, _ = complete
    missing = tiny().cells()[3]
    (work_dir / "cells" / f"{missing.id}.json").unlink()
    ran = []

    def fake(bench, cell):
        ran.append(cell.id)
        return {ACCURACY: 0.25, "seconds": 0.0}

    monkeypatch.setattr(training, "run_cell", fake)
    records = run(tiny(), work_dir)
    assert ran == [missing.id]
    assert records[missing.id][ACCURACY] == 0.25


def test_a_cell_is_a_function_of_its_seed(tmp_path):
    table = tiny(teacher=None, rows=(Row("Cross-entropy"),), sizes=((3, 1),))
    first, second = (run(table, tmp_path / name) for name in ("a", "b"))
    assert first["3-seed0-cross_entropy"]["epochs"] == second["3-seed0-cross_entropy"]["epochs"]


def test_other_settings_are_refused(complete):
    work_dir, _ = complete
    changed = tiny(training=dataclasses.replace(SHORT, batch_size=8))
    with pytest.raises(ResumeError, match=r"settings.training.batch_size was 16, now 8"):
        run(changed, work_dir)
    rows = (Row("Cross-entropy", supervised=2.0), tiny().rows[1])
    with pytest.raises(ResumeError, match=r"row.supervised was 1.0, now 2.0"):
        run(tiny(rows=rows), work_dir)


def test_a_teacher_of_other_settings_is_refused(complete):
    work_dir, _ = complete
    source = Source("vgg4", 0.1, "digits", dataclasses.replace(SHORT, epochs=3))
    with pytest.raises(ResumeError, match="trained under other settings"):
        training.trained(source, lambda *_: None, str(work_dir / "teachers"))


def test_a_damaged_cell_is_refused(complete):
    work_dir, _ = complete
    path = work_dir / "cells" / f"{tiny().cells()[0].id}.json"
    text = path.read_text()
    path.write_text(text[:50])
    with pytest.raises(ResumeError, match="damaged"):
        run(tiny(), work_dir)
    path.write_text(text)


def test_parts_are_disjoint_and_complete():
    table = experiments.declared("t4.2", "small")
    parts = [tables.narrowed(table, part=f"{i}/3") for i in range(3)]
    ids = [cell.id for part in parts for cell in part]
    assert len(ids) == len(set(ids))
    assert set(ids) == {cell.id for cell in table.cells()}
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_rows_sizes_and_seeds_narrow_down():
    table = experiments.declared("t4.2", "small")
    cells = tables.narrowed(table, rows=["1", "Match FG + Att"], sizes=["50"], seeds=["1", "3"])
    assert [(c.size, c.seed, c.row.label) for c in cells] == [
        (50, seed, label) for seed in (1, 3) for label in ("Cross-entropy", "Match FG + Att")
    ]


@pytest.mark.parametrize(
    "asked", [{"rows": ["8"]}, {"sizes": ["51"]}, {"seeds": ["4"]}, {"part": "2/2"}, {"part": "x"}]
)
def test_what_there_is_not_is_refused(asked):
    with pytest.raises(ArgumentError, match=f"--{next(iter(asked))}"):
        tables.narrowed(experiments.declared("t4.2", "small"), **asked)


def test_a_failed_cell_is_recorded_and_the_run_goes_on(tmp_path):
    # Weights far beyond what float32 holds make the loss infinite in the first epoch.
    rows = (
        Row("Diverges", supervised=1e38),
        Row("Cross-entropy"),
    )
    table = tiny(
        teacher=None,
        rows=rows,
        sizes=((3, 1),),
        training=dataclasses.replace(SHORT, optimizer="sgd", learning_rate=1e30),
    )
    table = dataclasses.replace(table, rows=rows)
    records = run(table, tmp_path)
    assert "not finite after epoch" in records["3-seed0-diverges"]["failed"]
    assert "1 failed" in tables.markdown(table, records)
    assert len(records) == 2


def test_the_table_alone_trains_nothing(complete, capsys):
    work_dir, _ = complete
    before = (work_dir / "tiny.md").read_text()
    (work_dir / "tiny.md").unlink()
    reproduce.run(tiny(), str(work_dir), training.Options(), tiny().cells(), table_only=True)
    assert (work_dir / "tiny.md").read_text() == before
    assert "| Match activations |" in capsys.readouterr().out


def test_the_table_alone_tells_of_the_settings_of_its_cells(complete):
    work_dir, _ = complete
    longer = tiny(training=dataclasses.replace(SHORT, epochs=9), width=0.5)
    reproduce.run(longer, str(work_dir), training.Options(), [], table_only=True)
    text = (work_dir / "tiny.md").read_text()
    assert "digits, vgg4 at width 0.1, adam 0.001, ×0.1 after 1 of 2 epochs" in text
    with pytest.raises(ResumeError, match="holds tiny at --scale=small"):
        paper_scale = tiny(scale="paper")
        reproduce.run(paper_scale, str(work_dir), training.Options(), [], table_only=True)


def test_a_given_teacher_is_part_of_the_declaration(complete):
    work_dir, _ = complete
    given = training.Options(teacher=str(work_dir / "teachers" / "vgg4-digits.keras"))
    settings = training.settings(tiny(), given)
    assert settings["teacher"] != training.settings(tiny(), training.Options())["teacher"]
    cell = tiny().cells()[0]
    other = declaration(training.settings(tiny(), training.Options()), cell)
    assert digest(declaration(settings, cell)) != digest(other)
    assert "teacher network given as a file" in tiny().as_run(settings).summary()
    with pytest.raises(ResumeError, match=r"settings\.teacher"):
        run(tiny(), work_dir, teacher=given.teacher)
    with pytest.raises(ModelError, match="cannot be read"):
        training.settings(tiny(), training.Options(teacher="nowhere.keras"))


def test_a_teacher_brings_the_statistics_of_its_images(complete):
    work_dir, _ = complete
    learned = training.Learned(str(work_dir / "teachers" / "vgg4-digits.keras"))
    mean, std = data.channel_statistics(data.load("digits", "train"))
    np.testing.assert_allclose(learned.statistics(None)[0], mean)
    np.testing.assert_allclose(learned.statistics(None)[1], std)
    assert 0 < learned.accuracy <= 1


def test_dropout_is_inserted_behind_its_layer_and_weights_stay():
    network = models.get("vgg4", (8, 8, 1), 3, width=0.1)
    copy = training.with_dropout(network, "act2", 0.5)
    names = [layer.name for layer in copy.layers]
    assert names.index("act2_dropout") == names.index("act2") + 1
    assert copy.get_layer("pool2").input is copy.get_layer("act2_dropout").output
    x = np.random.RandomState(0).rand(4, 8, 8, 1).astype("float32")
    np.testing.assert_allclose(copy(x), network(x), rtol=1e-6)
    assert np.abs(copy(x, training=True) - network(x, training=True)).max() > 1e-3


def test_bias_decay_is_the_square_of_both_biases():
    row = Row("decay", bias_decay=("conv3", "bn3", 0.1))
    bench = FakeBench(tiny(teacher=None), (8, 8, 1), 3)
    network = training.build_student(bench, row, (8, 8, 1))
    layers = [network.get_layer("conv3").bias, network.get_layer("bn3").beta]
    for variable in layers:
        variable.assign(np.arange(variable.shape[0], dtype="float32"))
    expected = 0.1 * sum(float(np.sum(np.square(v.numpy()))) for v in layers)
    assert float(sum(network.losses)) == pytest.approx(expected)


def test_a_pretrained_student_keeps_all_but_its_logits():
    trained = models.get("vgg4", (8, 8, 1), 5, width=0.1)
    network = models.get("vgg4", (8, 8, 1), 3, width=0.1)
    logits = network.get_layer("logits").kernel.numpy()
    training.take_over(network, trained)
    conv = [model.get_layer("conv2").kernel.numpy() for model in (network, trained)]
    np.testing.assert_array_equal(*conv)
    np.testing.assert_array_equal(network.get_layer("logits").kernel.numpy(), logits)
    with pytest.raises(ModelError, match="same architecture"):
        training.take_over(models.get("vgg4", (8, 8, 1), 3, width=0.2), trained)


def test_layers_of_chapter_4_have_maps_of_three_sizes():
    teacher = models.get("vgg9", (32, 32, 3), 3, width=0.01)
    for student, pairs in LAYERS.items():
        network = models.get(student, (32, 32, 3), 3, width=0.01)
        for i in (0, 1):
            layers = [(network, teacher)[i].get_layer(pair[i]) for pair in pairs]
            assert [layer.output.shape[1] for layer in layers] == [32, 16, 8]


def test_reductions_and_angles_are_recorded_and_angles_drawn(tmp_path):
    table = tiny(
        sizes=((3, 1),),
        rows=tiny().rows[1:],
        reduction_of="activation_matching",
        angle_every=1,
    )
    record = run(table, tmp_path)["3-seed0-match_activations"]
    first, last = (record["epochs"][i]["activation_matching"] for i in (0, -1))
    assert record["reduction"] == pytest.approx(1 - last / first)
    assert [epoch for epoch, _ in record["angles"]] == [1, 2]
    assert all(0 < angle < 180 for _, angle in record["angles"])
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")


def test_the_toy_from_points_to_picture(tmp_path):
    table = dataclasses.replace(
        experiments.declared("f2.1", "small"), epochs=1, drop=1, sizes=((4, 1),), width=8
    )
    table = dataclasses.replace(table, rows=table.rows[:3])
    records = run(table, tmp_path)
    assert all(record["error"] > 0 for record in records.values())
    compared = toy.compared(table, records)
    assert "difference" not in compared[Cell(4, 0, table.rows[1]).id]
    assert compared[Cell(4, 0, table.rows[2]).id]["difference"] > 0
    assert (tmp_path / "f2.1.png").read_bytes().startswith(b"\x89PNG")


def test_slopes_of_the_toy_are_derivatives():
    network = toy.teacher()
    x = np.array([[0.3], [-0.5]], "float32")
    values, slopes = toy.values_and_slopes(network, x)
    step = 1e-2
    above, below = (toy.values_and_slopes(network, x + d)[0] for d in (step, -step))
    np.testing.assert_allclose(slopes, (above - below) / (2 * step), rtol=2e-2)
    np.testing.assert_array_equal(values, toy.values_and_slopes(toy.teacher(), x)[0])


def test_supervision_of_weight_zero_teaches_nothing():
    network = models.get("vgg4", (8, 8, 1), 3, width=0.1)
    model = training.penalized(FakeBench(tiny(teacher=None), (8, 8, 1), 3), network, ())
    training.compile_model(model, SHORT, 16, supervised=0.0)
    before = network.get_layer("logits").kernel.numpy()
    x, y = np.random.RandomState(0).rand(16, 8, 8, 1), np.zeros(16, "int32")
    history = model.fit(x.astype("float32"), y, verbose=0)
    assert history.history["loss"] == [0.0]
    np.testing.assert_array_equal(network.get_layer("logits").kernel.numpy(), before)


def test_a_schedule_is_squeezed():
    short = Training(epochs=100, drops=(83,), batch_size=32).shortened(10)
    assert (short.epochs, short.drops) == (10, (8,))


@pytest.mark.parametrize(
    "typed, read",
    [
        (["t4.2", "--scale=small"], ["--experiment=t4.2", "--scale=small"]),
        (["--scale=small", "t4.2"], ["--scale=small", "--experiment=t4.2"]),
        (["--experiment", "t4.2"], ["--experiment", "t4.2"]),
        (["nonsense"], ["--experiment=nonsense"]),
        (["--list"], ["--list"]),
    ],
)
def test_the_name_may_stand_anywhere(typed, read):
    assert reproduce.with_flag(typed) == read


@pytest.fixture(scope="module")
def app():
    with in_process(reproduce) as start:
        yield lambda *arguments: start(*reproduce.with_flag(list(arguments)))


def test_the_list(app, capsys):
    assert app("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(experiments.DECLARED)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["t9.9"], "--experiment: got 't9.9'"),
        ([], "--experiment: got None"),
        (["t4.2", "--part=3/2"], "--part: got '3/2'"),
        (["t4.3", "--teacher=x.keras"], "--teacher: t4.3 uses none"),
        (["f2.1", "--dataset=cifar10"], "--dataset: f2.1 has settings of its own"),
        (["t5.1", "--epochs=3"], "--epochs: t5.1 has settings of its own"),
        (["t2.3", "--scale=paper"], "--teacher: not given"),
    ],
)
def test_usage_errors(app, capsys, tmp_path, arguments, message):
    assert app(*arguments, f"--work_dir={tmp_path}") == 64
    assert message in capsys.readouterr().err


def test_flags_change_data_and_schedule(app, capsys, tmp_path):
    asked = ["t4.1", "--dataset=digits", "--image_size=32,32", "--epochs=4", "--table_only"]
    assert app(*asked, f"--work_dir={tmp_path}") == 0
    text = (tmp_path / "t4.1.md").read_text()
    assert "digits, vgg11 at width 0.25, adam 0.001, ×0.1 after 3 of 4 epochs" in text
    assert "teacher vgg9 on digits" in text
    assert "0 of 28 cells" in text


def test_penalties_take_their_layers_as_pairs():
    term = Term("AttentionMatching", 2.0, {"layers": [["act1", "act2"]], "power": 1})
    penalty = training.build_penalty(term)
    assert isinstance(penalty, penalties.AttentionMatching)
    assert [tuple(pair) for pair in penalty.layers] == [("act1", "act2")]
    assert penalty.weight == 2.0


def test_sessions_are_cleared_between_cells_without_losing_the_teacher(complete):
    work_dir, _ = complete
    bench = training.Bench(tiny(), str(work_dir), training.Options())
    x = np.random.RandomState(0).rand(2, 8, 8, 1).astype("float32")
    before = bench.teacher.network(x).numpy()
    keras.backend.clear_session()
    np.testing.assert_array_equal(bench.teacher.network(x).numpy(), before)
