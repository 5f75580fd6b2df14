"""`python -m apps.reproduce`: cells are run once, recorded and tabled, and flags are read."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from apps.common.trained_networks import Learned
from apps.reproduce import __main__ as reproduce
from apps.reproduce import papers
from apps.reproduce.results import tables
from apps.reproduce.runners import network_training, students, toy
from apps.reproduce.runners.bench import Options
from apps.reproduce.schema import ACCURACY, Cell, Row, Source, declaration, digest
from tests.helpers.app_run import in_process
from tests.helpers.reproduce_cases import SHORT, tiny
from tfgrad import data
from tfgrad.errors import ModelError, ResumeError


def run(table, work_dir, **options):
    return reproduce.run(table, str(work_dir), Options(**options), table.cells())


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A work directory in which every cell of the tiny table is done."""
    work_dir = tmp_path_factory.mktemp("complete") / "tiny"
    return work_dir, run(tiny(), work_dir)


@pytest.mark.long
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


def test_finished_cells_are_not_run_again(complete, monkeypatch):
    work_dir, _ = complete
    missing = tiny().cells()[3]
    (work_dir / "cells" / f"{missing.id}.json").unlink()
    ran = []

    def fake(bench, cell):
        ran.append(cell.id)
        return {ACCURACY: 0.25, "seconds": 0.0}

    monkeypatch.setattr(students, "run_cell", fake)
    records = run(tiny(), work_dir)
    assert ran == [missing.id]
    assert records[missing.id][ACCURACY] == 0.25


@pytest.mark.slow
def test_a_cell_is_a_function_of_its_seed(tmp_path):
    table = tiny(teacher=None, rows=(Row("Cross-entropy"),), sizes=((3, 1),))
    first, second = (run(table, tmp_path / name) for name in ("a", "b"))
    assert first["3-seed0-cross_entropy"]["epochs"] == second["3-seed0-cross_entropy"]["epochs"]


def test_other_settings_are_rejected(complete):
    work_dir, _ = complete
    changed = tiny(training=dataclasses.replace(SHORT, batch_size=8))
    with pytest.raises(ResumeError, match=r"settings.training.batch_size was 16, now 8"):
        run(changed, work_dir)
    rows = (Row("Cross-entropy", supervised=2.0), tiny().rows[1])
    with pytest.raises(ResumeError, match=r"row.supervised was 1.0, now 2.0"):
        run(tiny(rows=rows), work_dir)


def test_a_teacher_of_other_settings_is_rejected(complete):
    work_dir, _ = complete
    source = Source("vgg4", 0.1, "digits", dataclasses.replace(SHORT, epochs=3))
    with pytest.raises(ResumeError, match="trained under other settings"):
        network_training.trained(source, lambda *_: None, str(work_dir / "teachers"))


def test_a_damaged_cell_is_rejected(complete):
    work_dir, _ = complete
    path = work_dir / "cells" / f"{tiny().cells()[0].id}.json"
    text = path.read_text()
    path.write_text(text[:50])
    with pytest.raises(ResumeError, match="damaged"):
        run(tiny(), work_dir)
    path.write_text(text)


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
    reproduce.run(tiny(), str(work_dir), Options(), tiny().cells(), table_only=True)
    assert (work_dir / "tiny.md").read_text() == before
    assert "| Match activations |" in capsys.readouterr().out


def test_the_table_alone_shows_the_settings_of_its_cells(complete):
    work_dir, _ = complete
    longer = tiny(training=dataclasses.replace(SHORT, epochs=9), width=0.5)
    reproduce.run(longer, str(work_dir), Options(), [], table_only=True)
    text = (work_dir / "tiny.md").read_text()
    assert "digits, vgg4 at width 0.1, adam 0.001, ×0.1 after 1 of 2 epochs" in text
    with pytest.raises(ResumeError, match="holds tiny at --scale=small"):
        paper_scale = tiny(scale="paper")
        reproduce.run(paper_scale, str(work_dir), Options(), [], table_only=True)


def test_a_given_teacher_is_part_of_the_declaration(complete):
    work_dir, _ = complete
    given = Options(teacher=str(work_dir / "teachers" / "vgg4-digits.keras"))
    settings = students.settings(tiny(), given)
    assert settings["teacher"] != students.settings(tiny(), Options())["teacher"]
    cell = tiny().cells()[0]
    other = declaration(students.settings(tiny(), Options()), cell)
    assert digest(declaration(settings, cell)) != digest(other)
    assert "teacher network given as a file" in tiny().as_run(settings).summary()
    with pytest.raises(ResumeError, match=r"settings\.teacher"):
        run(tiny(), work_dir, teacher=given.teacher)
    with pytest.raises(ModelError, match="cannot be read"):
        students.settings(tiny(), Options(teacher="nowhere.keras"))


def test_a_teacher_has_the_statistics_of_its_images(complete):
    work_dir, _ = complete
    learned = Learned(str(work_dir / "teachers" / "vgg4-digits.keras"))
    mean, std = data.channel_statistics(data.load("digits", "train"))
    np.testing.assert_allclose(learned.statistics(None)[0], mean)
    np.testing.assert_allclose(learned.statistics(None)[1], std)
    assert 0 < learned.accuracy <= 1


def test_sessions_are_cleared_between_cells_without_losing_the_teacher(complete):
    work_dir, _ = complete
    bench = students.StudentBench(tiny(), str(work_dir), Options())
    x = np.random.RandomState(0).rand(2, 8, 8, 1).astype("float32")
    before = bench.teacher.network(x).numpy()
    keras.backend.clear_session()
    np.testing.assert_array_equal(bench.teacher.network(x).numpy(), before)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_toy_from_points_to_picture(tmp_path):
    table = dataclasses.replace(
        papers.declared("f2.1", "small"), epochs=1, drop=1, sizes=((4, 1),), width=8
    )
    table = dataclasses.replace(table, rows=table.rows[:3])
    records = run(table, tmp_path)
    assert all(record["error"] > 0 for record in records.values())
    compared = toy.compared(table, records)
    assert "difference" not in compared[Cell(4, 0, table.rows[1]).id]
    assert compared[Cell(4, 0, table.rows[2]).id]["difference"] > 0
    assert (tmp_path / "f2.1.png").read_bytes().startswith(b"\x89PNG")


# The command


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
    assert [line.split()[0] for line in lines] == list(papers.DECLARED)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["t9.9"], "--experiment: got 't9.9'"),
        ([], "--experiment: got None"),
        (["t4.2", "--part=3/2"], "--part: got '3/2'"),
        (
            ["t4.3", "--teacher=x.keras"],
            "--teacher: got 'x.keras'; expected none, because t4.3 uses none",
        ),
        (
            ["f2.1", "--dataset=cifar10"],
            "--dataset: got 'cifar10'; expected none, because f2.1 has settings of its own",
        ),
        (
            ["t5.1", "--epochs=3"],
            "--epochs: got 3; expected none, because t5.1 has settings of its own",
        ),
        (
            ["t5.1", "--pretrained=x.keras"],
            "--pretrained: got 'x.keras'; expected none, because t5.1 has settings of its own",
        ),
        (["t2.3", "--scale=paper"], "--teacher: got none; expected a resnet34 trained on imagenet"),
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
