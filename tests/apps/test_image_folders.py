"""`--dataset=FOLDER`: a folder of labelled images in the commands."""

import contextlib
import io
import json

import numpy as np
import pytest

from apps import train
from apps.common import trained_networks
from apps.evaluate import __main__ as evaluating
from apps.evaluate import networks
from apps.explain import __main__ as explaining
from apps.map_dataset import folder_sources
from apps.report import __main__ as reporting
from tests.helpers import tiny_application
from tests.helpers.app_run import in_process
from tests.helpers.image_folders import write, write_folder
from tfgrad import PenalizedModel, data, loading

SIDE = tiny_application.SIDE
TUNED = (
    *("--network=MobileNetV2", "--weights=random", "--frozen", "--gradient_norm=0.01"),
    *("--weight_decay=0.1", "--epochs=1", "--noise=0"),
)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Photographs of several sizes; one of them is broken."""
    root = write_folder(tmp_path_factory.mktemp("pets"), {"cat": 6, "dog": 6, "elk": 6})
    for i in range(6):
        write(root / f"cat/{i:03d}", 7, (12, 9 + i))
    (root / "dog/zz.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def complete(pets, tmp_path_factory):
    """The work directory of a training on the folder, and what it printed."""
    directory, out = tmp_path_factory.mktemp("run") / "run", io.StringIO()
    with (
        tiny_application.in_place(),
        in_process(train) as app,
        contextlib.redirect_stdout(out),
        pytest.warns(match="'train' cannot be read, and are left out"),
    ):
        code = app(f"--dataset={pets}", *TUNED, f"--work_dir={directory}")
    assert code == 0
    return directory, out.getvalue()


@pytest.fixture
def run(complete):
    return complete[0]


def test_a_run_knows_the_classes_of_the_folder(run):
    results = json.loads((run / "results.json").read_text())
    assert results["classes"] == ["cat", "dog", "elk"]
    assert results["input_shape"] == [SIDE, SIDE, 3]
    assert trained_networks.image_size(str(run)) == (SIDE, SIDE)
    assert trained_networks.image_size(str(run / "network.keras")) == (SIDE, SIDE)


def test_a_new_layer_is_trained_on_frozen_features(complete):
    directory, printed = complete
    assert "MobileNetV2 with random weights, which is not trained; a new layer for 3" in printed
    assert "make_safe corrected in layers of BatchNormalization (1), LayerNormal" in printed
    network, _ = trained_networks.from_run(str(directory))
    features, head = network.layers[-2:]
    assert not features.trainable and head.kernel_regularizer is not None
    assert features.get_layer("conv").kernel_regularizer is None  # not trained
    model = loading.load(directory / "model.keras")
    assert isinstance(model, PenalizedModel)
    assert {variable.path.split("/")[-2] for variable in model.trainable_variables} == {"head"}


def test_a_run_does_not_go_on_with_other_images(pets, run, capsys):
    arguments = (f"--dataset={pets}", *TUNED, f"--work_dir={run}")
    with in_process(train) as app:
        assert app(*arguments) == 0
        added = write(pets / "elk/new", 0)
        assert app(*arguments) == 64
        added.unlink()
    assert "holds a run with other flags: --dataset_digest was" in capsys.readouterr().err


def test_training_asks_for_a_size(pets, tmp_path, capsys):
    with in_process(train) as app:
        assert app(f"--dataset={pets}", f"--work_dir={tmp_path}") == 65
        assert app("--dataset=./nowhere", f"--work_dir={tmp_path}") == 65
    message = capsys.readouterr().err
    assert "train: --image_size: got None for" in message and "try --image_size=64,64" in message
    assert "--dataset: got './nowhere', which does not exist" in message


def test_a_folder_is_explained_in_the_size_of_the_network(pets, run, tmp_path, capsys):
    with in_process(explaining) as app:
        code = app(
            *(f"--model={run}", f"--dataset={pets}", "--split=all", "--count=30"),
            *("--methods=input_gradient", f"--out={tmp_path / 'out'}"),
        )
    assert code == 0
    found = json.loads((tmp_path / "out/explanations.json").read_text())
    assert len(found["images"]) == 18 and found["image_size"] == [SIDE, SIDE]
    for row in found["images"]:
        assert row["file"].startswith(f"{pets}/{row['label_name']}/")
        assert row["label_name"] == ["cat", "dog", "elk"][row["label"]]
    assert [one["file"] for one in found["skipped"]] == [f"{pets}/dog/zz.jpg"]
    assert "left out: path:" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::tfgrad.errors.ImagesLeftOutWarning")
def test_a_folder_is_tested_on_in_the_size_of_the_network(pets, run, monkeypatch):
    loaded = []
    monkeypatch.setattr(evaluating, "main", lambda: loaded.append(networks.images()))
    with in_process(evaluating) as app:
        arguments = f"--models=mine={run}", f"--dataset={pets}", "--split=all"
        assert app(*arguments, "--count=50") == 0  # more than there are
        assert app(*arguments, "--count=4") == 0
        assert app(*arguments, "--image_size=5,6") == 0
    assert [one.images.shape for one in loaded] == [
        (18, SIDE, SIDE, 3),
        (4, SIDE, SIDE, 3),
        (18, 5, 6, 3),
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::tfgrad.errors.ImagesLeftOutWarning")
def test_a_report_on_a_folder(pets, run, tmp_path):
    with in_process(reporting) as app:
        code = app(
            *(f"--model={run}", f"--dataset={pets}", "--split=all", "--images=4"),
            f"--out={tmp_path / 'out'}",
        )
    assert code == 0
    found = json.loads((tmp_path / "out/report.json").read_text())["sections"]
    assert found["accuracy"]["images"] == 18 and {*found["accuracy"]["classes"]} == {
        "cat",
        "dog",
        "elk",
    }


def test_labelled_files_for_maps_of_a_data_set(pets):
    source = folder_sources.LabelledFolder(str(pets), "test")
    parts = source.parts(2)
    items = [item for part in parts for item in source.read(part)]
    assert source.count() == len(items) == 3 and source.describe()["count"] == 3
    loaded = data.load(pets, "test", image_size=(SIDE, SIDE))
    assert [item.label for item in items] == loaded.labels.tolist()
    decode = source.pixels((SIDE, SIDE), 3)
    pixels = np.stack([decode(item.content) for item in items])
    np.testing.assert_allclose(255 * pixels, loaded.images, atol=0.51)
    assert all(item.key.startswith(loaded.classes[item.label] + "/") for item in items)
