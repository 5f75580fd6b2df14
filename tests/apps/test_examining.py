"""The experiments that examine trained networks: declarations, shared networks and records."""

import dataclasses
import os

import keras
import numpy as np
import pytest

from apps.reproduce import __main__ as reproduce
from apps.reproduce import papers
from apps.reproduce.results import tables
from apps.reproduce.runners import examinations, network_training
from apps.reproduce.runners.bench import Bench, Options
from apps.reproduce.schema import (
    ACCURACY_COLUMN,
    FULL,
    Examination,
    Examined,
    ExaminedNetwork,
    Metric,
    Term,
    Training,
)
from tfgrad import data
from tfgrad.penalties import AntiScoreMatching
from tfgrad.penalties.fooling import corner

DECLARED = [
    name for name in papers.DECLARED if isinstance(papers.declared(name, "small"), Examination)
]
SHORT = Training(epochs=2, drops=(1,), batch_size=64, augment="flip")
CORNER = corner(8, 8, side=3).tolist()


def subject(label, *terms, **changes):
    settings = {
        "network": "vgg4",
        "width": 0.1,
        "dataset": "digits",
        "training": SHORT,
        "train_split": "train[:200]",
        "activation": "softplus",
        "normalize": False,
    }
    return ExaminedNetwork(label=label, terms=terms, **(settings | changes))


def tiny(**changes):
    plain = subject("plain", keep=(1,))
    rows = (
        Examined("plain", plain),
        Examined(
            "score matching",
            subject("score", Term("ScoreMatching", 1e-4, {"stability": 1e-3})),
            paper={"gan_test": {FULL: (72.75, None)}},
        ),
    )
    defaults = {
        "name": "tiny",
        "title": "Tiny: an examination",
        "scale": "small",
        "examples": 30,
        "rows": rows,
        "metrics": (ACCURACY_COLUMN, Metric("gan_test", "GAN-test (%)", 100.0, 1, " %")),
        "tests": {
            "gan": {"count": 20, "steps": 3, "denoise": True},
            "samples": {"count": 10, "steps": 2},
            "denoised": {"count": 10, "steps": 2},
            "density": {"sigmas": (0.01, 0.1)},
            "noise": {"sigmas": (0.0, 0.3), "repeats": 1},
            "pixels": {"fractions": (0.1, 0.5)},
            "trace": {"sigma": 0.01, "draws": 4, "images": 5},
            "coupling": {"sigma": 0.1, "draws": 2, "images": 16, "batch": 8},
            "energy": {"mask": CORNER, "temperature": 1e3},
        },
        "judge": subject("judge", activation="relu", train_split="train[200:500]"),
        "reference": plain,
    }
    return Examination(**{**defaults, **changes})


def run(table, work_dir, **options):
    return reproduce.run(table, str(work_dir), Options(**options), table.cells())


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("complete")
    return work_dir, run(tiny(), work_dir / "tiny", networks_dir=str(work_dir / "networks"))


@pytest.mark.slow
def test_every_test_records_its_numbers(complete):
    _, records = complete
    assert len(records) == 2
    for record in records.values():
        assert 0 <= record["accuracy"] <= 1
        assert 0 <= record["gan_test_denoised"] <= 1
        assert record["ratio_1"] > 0
        assert record["noise_0"] == pytest.approx(record["accuracy"])
        assert record["own_curve"]["points"] == [0.1, 0.5]
        assert record["moved"] > 0
        for name in ("logit", "loss", "hot"):
            assert 0 < record[name] < 1
        assert record["scatter_antithetic"] < record["scatter_taylor"]
        ratio = record["scatter_taylor"] / record["scatter_expected"]
        assert 0.5 < ratio < 1.5  # a standard deviation from four draws
    plain, score = records.values()
    assert plain["density"]["values"] != score["density"]["values"]
    assert plain["own_curve"] == plain["reference_curve"]
    assert score["own_curve"] != score["reference_curve"]


@pytest.mark.slow
def test_pictures_are_written_beside_the_table(complete):
    work_dir, _ = complete
    text = (work_dir / "tiny" / "tiny.md").read_text()
    for name in ("samples", "denoised", "own", "reference"):
        assert f"tiny_{name}.png" in text
        assert (work_dir / "tiny" / f"tiny_{name}.png").stat().st_size > 1000
    assert "72.75" in text


@pytest.mark.slow
def test_networks_are_trained_once_and_shared(complete):
    work_dir, _ = complete
    directory = work_dir / "networks"
    found = sorted(os.listdir(directory))
    assert sum(name.endswith(".json") for name in found) == 3
    assert sum("-epoch1.keras" in name for name in found) == 1
    before = {name: (directory / name).stat().st_mtime_ns for name in found if "keras" in name}
    early = Examined("after an epoch", subject("plain", keep=(1,)), epoch=1)
    other = tiny(name="other", rows=(early,), tests={"noise": tiny().tests["noise"]})
    (record,) = run(other, work_dir / "other", networks_dir=str(directory)).values()
    assert record["trained"][-1]["epoch"] == 1
    assert before == {name: (directory / name).stat().st_mtime_ns for name in before}


@pytest.mark.slow
def test_the_copy_of_an_epoch_has_the_weights_of_that_epoch(complete):
    work_dir, _ = complete
    first = subject("plain", training=Training(1, (1,), 64, augment="flip"))
    bench = Bench(tiny(), str(work_dir), Options())
    alone = bench.network(first).network
    kept = Bench(tiny(), str(work_dir), Options(networks_dir=str(work_dir / "networks"))).network(
        subject("plain", keep=(1,)), epoch=1
    )
    assert kept.statistics(bench.test) is None  # the copy's images are not normalised either
    for a, b in zip(alone.weights, kept.network.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_fine_tuning_starts_from_the_trained_weights(complete):
    work_dir, _ = complete
    frozen = Training(1, (), 64, learning_rate=0.0)
    plain = subject("plain", keep=(1,))
    tuned = dataclasses.replace(plain, label="tuned", training=frozen, start=plain, keep=())
    options = Options(networks_dir=str(work_dir / "networks"))
    bench = Bench(tiny(), str(work_dir), options)
    a, b = bench.network(plain).network, bench.network(tuned).network
    for v, w in zip(a.trainable_variables, b.trainable_variables, strict=True):
        np.testing.assert_array_equal(v.numpy(), w.numpy())


@pytest.mark.slow
def test_the_traces_of_both_modes_are_the_penalty_s(complete):
    work_dir, records = complete
    bench = Bench(tiny(), str(work_dir), Options(networks_dir=str(work_dir / "networks")))
    network = bench.network(tiny().rows[0].subject).network
    one = AntiScoreMatching(estimator="antithetic", sigma=0.1, threshold=1e30)
    x, y = bench.examples().images[:16], bench.examples().labels[:16]
    record = next(iter(records.values()))
    for name, mode in (("inference", False), ("training", True)):
        found = [
            one.per_example(network, x[a : a + 8], y[a : a + 8], training=mode, seed=step)
            for a in (0, 8)
            for step in range(2)
        ]
        assert record[f"test_{name}"] == pytest.approx(-np.mean(found), rel=1e-3), name


def test_networks_of_different_settings_have_different_names():
    names = {
        s.name
        for s in (
            subject("a"),
            subject("b"),
            subject("a", Term("GradientNorm", 1.0)),
            subject("a", seed=1),
            subject("a", dropout=0.5),
        )
    }
    assert len(names) == 5


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*trace of the batch:tfgrad.errors.SecondOrderWarning")
@pytest.mark.parametrize("scale", ["small", pytest.param("paper", marks=pytest.mark.slow)])
def test_declared_networks_can_be_built(scale):
    subjects = {}
    for name in DECLARED:
        table = papers.declared(name, scale)
        assert len({cell.id for cell in table.cells()}) == len(table.cells())
        assert set(table.tests) <= set(examinations.TESTS)
        tables.markdown(table, {})
        subjects |= {row.subject.name: row.subject for row in table.rows}
    for one in subjects.values():
        small = dataclasses.replace(one, network="vgg4", width=0.01)
        model = network_training.build(small, (32, 32, 3), 10)
        built = [type(penalty).__name__ for penalty in model.penalties]
        assert built == [term.penalty for term in one.terms]
        dropout = [n for n in model.network.layers if isinstance(n, keras.layers.Dropout)]
        assert bool(dropout) == (one.dropout > 0)
        assert bool(model.network.losses) == (one.weight_decay > 0)


def test_the_judge_is_trained_on_other_images_than_the_networks():
    table = papers.declared("t5.1", "small")
    splits = {cell.row.subject.train_split for cell in table.cells()}
    assert (splits, table.judge.train_split) == ({"train[:25000]"}, "train[25000:]")


def test_test_images_come_class_by_class():
    bench = Bench(tiny(), "unused", Options())
    images, labels = bench.one_of_each(20)
    assert list(labels) == list(range(10)) * 2
    for image, label in zip(images, labels, strict=True):
        same = (bench.test.images == image).all(axis=(1, 2, 3))
        assert bench.test.labels[same][0] == label
    assert isinstance(bench.test, data.Dataset)
