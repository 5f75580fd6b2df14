"""The experiments on saliency methods: records and files of their cells."""

import dataclasses

import numpy as np
import pytest

from apps.reproduce import __main__ as reproduce
from apps.reproduce.papers import faithfulness, placement
from apps.reproduce.papers.faithfulness_rows import SIGNED, explained_rows
from apps.reproduce.runners import saliency_maps
from apps.reproduce.runners.bench import Options
from apps.reproduce.schema import (
    ACCURACY_COLUMN,
    BRIGHTNESS,
    CENTRE,
    Examination,
    ExaminedNetwork,
    Explained,
    Permuted,
    Training,
)
from tests.helpers.arrays import arrays_of
from tfgrad import models
from tfgrad.evaluation import Measurement

NETWORK = ExaminedNetwork(
    label="plain",
    network="vgg4",
    width=0.1,
    dataset="digits",
    training=Training(3, (2,), 32),
    train_split="train[:400]",
    test_split="test[:120]",
    normalize=False,
)
PERMUTED = Permuted(
    **dataclasses.asdict(NETWORK) | {"training": NETWORK.training, "label": "shuffled", "seed": 1},
    permutation=1,
)
METHODS = {
    "Random": ("random", {}),
    "FullGrad (no abs)": ("fullgrad", SIGNED),
    "Centre": (CENTRE, {}),
}


def table(tests, methods=METHODS):
    return Examination(
        name="tiny",
        title="Tiny: maps",
        scale="small",
        tests=tests,
        metrics=(ACCURACY_COLUMN,),
        rows=explained_rows(NETWORK, methods),
        examples=100,
        reference=PERMUTED,
    )


def run(table, work_dir):
    records = reproduce.run(table, str(work_dir), Options(), table.cells())
    return {cell.row.label: records[cell.id] for cell in table.cells()}


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    tests = {
        "perturbation": {"fractions": (0.0, 0.3, 0.7), "fill": 0.0},
        "flip": {"source": 8, "to": 3, "fraction": 0.2, "fill": 0.0},
        "retraining": {"fractions": (0.5,)},
        "labels": {},
        "maps": {"count": 3},
    }
    work_dir = tmp_path_factory.mktemp("explained")
    return work_dir, run(table(tests), work_dir)


def test_brightness_does_not_depend_on_the_model():
    images = np.random.default_rng(0).random((2, 3, 4, 3), "float32")
    by = Explained("Brightness", NETWORK, method=BRIGHTNESS)
    np.testing.assert_allclose(
        saliency_maps.map_function(None, by)(images), images.mean(-1), rtol=1e-6
    )


def test_the_centre_is_the_same_for_all_images():
    by = Explained("Centre", NETWORK, method=CENTRE)
    found = saliency_maps.map_function(None, by)(np.ones((2, 3, 5, 1), "float32")).numpy()
    down, across = np.mgrid[-1:1:3j, -1:1:5j]
    np.testing.assert_allclose(found, [1 - (down**2 + across**2) / 2] * 2, rtol=1e-6)


def test_coarser_maps_are_means_of_squares():
    maps = np.random.default_rng(0).random((2, 6, 9), "float32")
    means = maps.reshape(2, 2, 3, 3, 3).mean((2, 4))
    found = saliency_maps.coarser(maps, 3).numpy()
    np.testing.assert_allclose(found[:, 1::3, 1::3], means, rtol=1e-5)  # The squares' centres.
    np.testing.assert_allclose(found[:, 1, 2], (2 * means[:, 0, 0] + means[:, 0, 1]) / 3, rtol=1e-5)


@pytest.mark.parametrize("declared", [faithfulness.figure_3_2a, placement.on_photographs])
def test_feature_maps_are_stretched_unless_a_row_says_otherwise(declared):
    network = models.get("vgg4", (8, 8, 3), 3, width=0.05)
    for row in declared("small").rows:
        if row.method in ("fullgrad", "gradcam"):
            method = saliency_maps.map_function(network, row)
            assert method.placement == ("cells" if "placed" in row.label else "stretch")


@pytest.mark.parametrize("declared", [faithfulness.figure_3_2b, faithfulness.coarseness_retrained])
def test_rows_do_not_share_their_trainings(declared):
    rows = declared("small").rows
    assert len({saliency_maps.trainings_name(row) for row in rows}) == len(rows)


@pytest.mark.slow
def test_perturbation_begins_with_nothing_changed(complete):
    _, records = complete
    for record in records.values():
        assert record["change_0"] == record["logit_0"] == 0
        assert record["change_0.7"] > 0
        measured = Measurement.from_json(record["perturbation"])
        assert measured.examples == 100
        assert record["error_0.7"] == measured.deviations[-1] > 0
    random, fullgrad, _ = records.values()
    assert random["change_0.3"] != fullgrad["change_0.3"]


@pytest.mark.slow
def test_the_flip_depends_on_signs(complete):
    _, records = complete
    random, fullgrad, centre = records.values()
    for record in (random, fullgrad):
        assert 0 < record["removed"] <= 0.21
    assert fullgrad["flip"] > random["flip"]
    assert centre["removed"] == centre["flip"] == 0  # It is the same for both classes.


@pytest.mark.slow
def test_retraining_keeps_its_maps_and_runs(complete):
    work_dir, records = complete
    found = [record["retrained_0"] for record in records.values()]
    assert found[0] == found[1]  # The same training, which ran once.
    assert len({record["retrained_0.5"] for record in records.values()}) == 3
    kept = {path.name.partition("-")[0] for path in (work_dir / "maps").iterdir()}
    assert kept == {"fullgrad", "centre"}


@pytest.mark.slow
def test_masks_alone_tell_classes_apart(tmp_path):
    tests = {"retraining": {"fractions": (0.5,), "blank": True}}
    methods = {name: (name, {}) for name in ("random", "centre", "brightness")}
    random, centre, brightness = run(table(tests, methods), tmp_path).values()
    for record, column in ((random, "0"), (random, "0.5"), (centre, "0.5")):
        assert record[f"retrained_{column}"] < 0.2  # These masks do not depend on the image.
    assert brightness["retrained_0.5"] > 0.3  # These masks are the digits in black and white.


@pytest.mark.slow
def test_permuted_labels_give_another_network(complete):
    work_dir, records = complete
    networks = {path.name for path in (work_dir / "networks").glob("*.keras")}
    assert networks == {f"{network.name}.keras" for network in (NETWORK, PERMUTED)}
    random, fullgrad, centre = records.values()
    assert (
        random["by_heart"] == fullgrad["by_heart"] == centre["by_heart"] < 0.5 < random["accuracy"]
    )
    assert fullgrad["alike"] < random["alike"] == 1  # It depends on the image only.
    assert random["alike_apart"] < 0.2
    assert centre["alike"] == centre["alike_apart"] == 1  # It does not even depend on the image.
    assert Measurement.from_json(fullgrad["labels"]).examples == 100


def test_networks_of_permuted_labels_have_other_initial_weights():
    declared = faithfulness.labels("small")
    assert declared.reference.seed > max(row.subject.seed for row in declared.rows)


def test_another_permutation_is_another_network():
    assert PERMUTED.name != dataclasses.replace(PERMUTED, permutation=2).name


@pytest.mark.slow
def test_pictures_are_written_beside_the_table(complete):
    work_dir, _ = complete
    assert (work_dir / "tiny.png").stat().st_size > 1000
    arrays = [arrays_of(path) for path in sorted((work_dir / "images").glob("*.npz"))]
    assert [a["maps"].shape for a in arrays] == [(3, 8, 8)] * 3
    assert all(a["maps"].min() >= 0 for a in arrays)  # Sizes, though the method has signs.
