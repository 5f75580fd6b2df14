"""The declared experiments of `apps.reproduce` are consistent, and each row can be built."""

import dataclasses

import numpy as np
import pytest

from apps.reproduce import papers
from apps.reproduce.papers.distillation import LAYERS
from apps.reproduce.results import cells as kept
from apps.reproduce.runners import network_training, students, toy
from apps.reproduce.schema import (
    ACCURACY,
    Experiment,
    Row,
    Term,
    Training,
    declaration,
    digest,
)
from tests.helpers.reproduce_cases import SHORT, tiny
from tfgrad import models, penalties
from tfgrad.errors import ArgumentError, ModelError

IMAGES = [
    name for name in papers.DECLARED if isinstance(papers.declared(name, "small"), Experiment)
]
BOTH = [(name, scale) for name in papers.DECLARED for scale in papers.SCALES]


class FakeBench:
    """The attributes of a bench that building a student uses."""

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


# The declarations


@pytest.mark.parametrize("name, scale", BOTH)
def test_declarations_are_consistent(name, scale):
    table = papers.declared(name, scale)
    assert (table.name, table.scale) == (name, scale)
    ids = [cell.id for cell in table.cells()]
    assert len(ids) == len(set(ids)) == len(table.rows) * sum(seeds for _, seeds in table.sizes)
    keys = {metric.key for metric in table.metrics}
    for row in table.rows:
        assert set(row.paper) <= keys
        for numbers in row.paper.values():
            for mean, deviation in numbers.values():
                assert 0 <= mean < 100
                assert deviation is None or 0 <= deviation < 25
    assert table.summary()


def test_declarations_are_those_of_the_records_on_disk():
    # Whoever changes an experiment on purpose changes this digest, and invalidates kept cells.
    found = {}
    for name, scale in BOTH:
        table = papers.declared(name, scale)
        for cell in table.cells():
            found[f"{name} {scale} {cell.id}"] = digest(declaration(table.settings(), cell))
    assert len(found) == 1028
    assert digest(found) == "13a2ea2cc6028959"


def test_the_small_scale_has_sizes_for_which_the_paper_has_numbers():
    for name in ("t2.1", "t2.3", "t2.4", "t2.5", "t4.1", "t4.2", "t4.3", "f4.1b"):
        table = papers.declared(name, "small")
        for row in table.rows:
            assert {size for size, _ in table.sizes} <= set(row.paper[ACCURACY])


def test_cells_run_size_by_size_then_seed_by_seed_then_row_by_row():
    cells = tiny().cells()
    assert [(c.size, c.seed) for c in cells] == [(3, 0)] * 2 + [(3, 1)] * 2 + [(5, 0)] * 2
    assert [c.row.label for c in cells[:2]] == ["Cross-entropy", "Match activations"]


def test_constants_of_the_seven_rows_are_ten():
    for row in papers.declared("t4.2", "small").rows:
        assert {row.supervised, *(term.weight for term in row.terms)} == {10.0}


def test_layers_of_chapter_4_have_maps_of_three_sizes():
    teacher = models.get("vgg9", (32, 32, 3), 3, width=0.01)
    for student, pairs in LAYERS.items():
        network = models.get(student, (32, 32, 3), 3, width=0.01)
        for i in (0, 1):
            layers = [(network, teacher)[i].get_layer(pair[i]) for pair in pairs]
            assert [layer.output.shape[1] for layer in layers] == [32, 16, 8]


def test_a_schedule_is_shortened():
    short = Training(epochs=100, drops=(83,), batch_size=32).shortened(10)
    assert (short.epochs, short.drops) == (10, (8,))


def test_parts_are_disjoint_and_complete():
    table = papers.declared("t4.2", "small")
    parts = [kept.narrowed(table, part=f"{i}/3") for i in range(3)]
    ids = [cell.id for part in parts for cell in part]
    assert len(ids) == len(set(ids))
    assert set(ids) == {cell.id for cell in table.cells()}
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_rows_sizes_and_seeds_narrow_down():
    table = papers.declared("t4.2", "small")
    cells = kept.narrowed(table, rows=["1", "Match FG + Att"], sizes=["50"], seeds=["1", "3"])
    assert [(c.size, c.seed, c.row.label) for c in cells] == [
        (50, seed, label) for seed in (1, 3) for label in ("Cross-entropy", "Match FG + Att")
    ]


@pytest.mark.parametrize(
    "asked", [{"rows": ["8"]}, {"sizes": ["51"]}, {"seeds": ["4"]}, {"part": "2/2"}, {"part": "x"}]
)
def test_unknown_selections_are_rejected(asked):
    with pytest.raises(ArgumentError, match=f"--{next(iter(asked))}"):
        kept.narrowed(papers.declared("t4.2", "small"), **asked)


# What is built from them


def networks_and_terms(name, scale):
    """What the students of an experiment are built from."""
    table = papers.declared(name, scale)
    sources = [source and source.network for source in (table.teacher, table.pretrained)]
    rows = [dataclasses.replace(row, paper={}) for row in table.rows]
    return table.student, sources, bool(table.image_size), rows


# The scales of most experiments differ in sizes and epochs alone.
TO_BUILD = [(name, papers.SCALES[0]) for name in IMAGES] + [
    (name, scale)
    for name in IMAGES
    for scale in papers.SCALES[1:]
    if networks_and_terms(name, scale) != networks_and_terms(name, papers.SCALES[0])
]


@pytest.mark.long
@pytest.mark.sample(4)
@pytest.mark.parametrize("name, scale", TO_BUILD)
def test_every_row_of_every_experiment_can_be_built(name, scale):
    table = papers.declared(name, scale)
    side = (64, 64) if table.image_size else (32, 32)
    table = dataclasses.replace(table, width=0.01, image_size=side)
    bench = FakeBench(table, (*side, 3), classes=7)
    for row in table.rows:
        network = students.build_student(bench, row, (*side, 3))
        built = [network_training.build_penalty(term) for term in row.terms]
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


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize("name, row", [("t4.2", 6), ("t2.3", 5)])
def test_the_rows_with_most_terms_get_all_lessons(name, row):
    table = dataclasses.replace(papers.declared(name, "small"), width=0.01, image_size=None)
    bench = FakeBench(table, (32, 32, 3), classes=7)
    terms = table.rows[row].terms
    network = students.build_student(bench, table.rows[row], (32, 32, 3))
    model = students.penalized(bench, network, terms)
    y = np.zeros(1, "int32")
    labels = {"target": y} if table.rows[row].two_heads else y
    assert len(model.lessons(np.zeros((1, 32, 32, 3), "float32"), labels).taught) >= len(terms)


def test_dropout_is_inserted_after_its_layer_and_weights_stay():
    network = models.get("vgg4", (8, 8, 1), 3, width=0.1)
    copy = network_training.with_dropout(network, "act2", 0.5)
    names = [layer.name for layer in copy.layers]
    assert names.index("act2_dropout") == names.index("act2") + 1
    assert copy.get_layer("pool2").input is copy.get_layer("act2_dropout").output
    x = np.random.RandomState(0).rand(4, 8, 8, 1).astype("float32")
    np.testing.assert_allclose(copy(x), network(x), rtol=1e-6)
    assert np.abs(copy(x, training=True) - network(x, training=True)).max() > 1e-3


def test_bias_decay_is_the_square_of_both_biases():
    row = Row("decay", bias_decay=("conv3", "bn3", 0.1))
    bench = FakeBench(tiny(teacher=None), (8, 8, 1), 3)
    network = students.build_student(bench, row, (8, 8, 1))
    layers = [network.get_layer("conv3").bias, network.get_layer("bn3").beta]
    for variable in layers:
        variable.assign(np.arange(variable.shape[0], dtype="float32"))
    expected = 0.1 * sum(float(np.sum(np.square(v.numpy()))) for v in layers)
    assert float(sum(network.losses)) == pytest.approx(expected)


def test_a_pretrained_student_keeps_all_but_its_logits():
    trained = models.get("vgg4", (8, 8, 1), 5, width=0.1)
    network = models.get("vgg4", (8, 8, 1), 3, width=0.1)
    logits = network.get_layer("logits").kernel.numpy()
    students.take_over(network, trained)
    conv = [model.get_layer("conv2").kernel.numpy() for model in (network, trained)]
    np.testing.assert_array_equal(*conv)
    np.testing.assert_array_equal(network.get_layer("logits").kernel.numpy(), logits)
    with pytest.raises(ModelError, match="same architecture"):
        students.take_over(models.get("vgg4", (8, 8, 1), 3, width=0.2), trained)


def test_slopes_of_the_toy_are_derivatives():
    network = toy.teacher()
    x = np.array([[0.3], [-0.5]], "float32")
    values, slopes = toy.values_and_slopes(network, x)
    step = 1e-2
    above, below = (toy.values_and_slopes(network, x + d)[0] for d in (step, -step))
    np.testing.assert_allclose(slopes, (above - below) / (2 * step), rtol=2e-2)
    np.testing.assert_array_equal(values, toy.values_and_slopes(toy.teacher(), x)[0])


@pytest.mark.long
def test_supervision_of_weight_zero_changes_nothing():
    network = models.get("vgg4", (8, 8, 1), 3, width=0.1)
    model = students.penalized(FakeBench(tiny(teacher=None), (8, 8, 1), 3), network, ())
    network_training.compile_model(model, SHORT, 16, supervised=0.0)
    before = network.get_layer("logits").kernel.numpy()
    x, y = np.random.RandomState(0).rand(16, 8, 8, 1), np.zeros(16, "int32")
    history = model.fit(x.astype("float32"), y, verbose=0)
    assert history.history["loss"] == [0.0]
    np.testing.assert_array_equal(network.get_layer("logits").kernel.numpy(), before)


def test_penalties_take_their_layers_as_pairs():
    term = Term("AttentionMatching", 2.0, {"layers": [["act1", "act2"]], "power": 1})
    penalty = network_training.build_penalty(term)
    assert isinstance(penalty, penalties.AttentionMatching)
    assert [tuple(pair) for pair in penalty.layers] == [("act1", "act2")]
    assert penalty.weight == 2.0
