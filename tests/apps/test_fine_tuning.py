"""`train --network=` with a network of keras.applications; test_image_folders has a whole run."""

import json

import numpy as np
import pytest

from apps import export, train
from apps.explain import __main__ as explaining
from tests.helpers import tiny_application
from tests.helpers.app_run import in_process
from tests.helpers.image_folders import write_folder
from tfgrad import callbacks, loading
from tfgrad.errors import ModelError
from tfgrad.loading import applications

SIDE = 32


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    return write_folder(
        tmp_path_factory.mktemp("pets"), {"cat": 8, "dog": 8}, size=(40, 36), suffix=".jpg"
    )


@pytest.fixture
def app():
    with in_process(train) as run:
        yield run


@pytest.fixture
def tiny():
    with tiny_application.in_place():
        yield


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights=imagenet"], "--weights: got with --network=vgg4, which is trained from scra"),
        (["--frozen"], "--frozen: got with --network=vgg4"),
        (
            ["--network=MobileNetV2", "--width=0.5"],
            "--width: got with --network=MobileNetV2, which",
        ),
        (["--network=MobileNetV2", "--normalize"], "--normalize: got with --network=MobileNetV2"),
        (
            ["--network=MobileNet2"],
            "got 'MobileNet2'; did you mean 'MobileNetV2'? Expected one of vgg",
        ),
    ],
)
def test_flags_of_the_other_kind_of_network(app, tmp_path, capsys, arguments, message):
    assert app(*arguments, f"--work_dir={tmp_path}") == 64
    assert message in capsys.readouterr().err


def test_grey_images(app, tiny, tmp_path, capsys):
    directory = tmp_path / "run"
    assert app("--network=MobileNetV2", "--weights=random", f"--work_dir={directory}") == 65
    message = capsys.readouterr().err
    assert (
        "--dataset: got 'digits' of images with 1 channel(s) for --network=MobileNetV2" in message
    )


@pytest.mark.slow
def test_score_matching_needs_a_smooth_network(app, pets, tmp_path, capsys):
    code = app(
        *(f"--dataset={pets}", "--network=MobileNet", "--weights=random", "--score_matching=1e-4"),
        *(f"--image_size={SIDE},{SIDE}", f"--work_dir={tmp_path / 'run'}"),
    )
    assert code == 64
    assert "--network: got MobileNet with score matching; expected one without ReLU" in (
        capsys.readouterr().err
    )


def test_without_a_connection(app, pets, tmp_path, monkeypatch, capsys):
    def unreachable(*_, **__):
        raise ModelError("weights: the weights of MobileNetV2 cannot be downloaded.")

    monkeypatch.setattr(applications, "built", unreachable)
    arguments = f"--dataset={pets}", "--network=MobileNetV2", f"--image_size={SIDE},{SIDE}"
    assert app(*arguments, f"--work_dir={tmp_path / 'run'}") == 65
    message = capsys.readouterr().err
    assert "cannot be downloaded. Without a connection, --weights=random starts from" in message
    assert app(*arguments, "--weights=no.h5", f"--work_dir={tmp_path / 'file'}") == 65
    assert "Without a connection" not in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_run_of_mobilenet_its_maps_and_its_export(pets, tmp_path, monkeypatch):
    def arguments(name):
        return (
            *(f"--dataset={pets}", f"--image_size={SIDE},{SIDE}", "--network=MobileNetV2"),
            *("--weights=random", "--gradient_norm=1e-8", "--batch_size=8", "--epochs=2"),
            *("--noise=0", f"--work_dir={tmp_path / name}"),
        )

    epoch_end = callbacks.TimeLeft.on_epoch_end

    def interrupted(self, epoch, logs=None):
        epoch_end(self, epoch, logs)
        raise KeyboardInterrupt

    with in_process(train) as run:
        assert run(*arguments("whole")) == 0
        with monkeypatch.context() as patch:
            patch.setattr(callbacks.TimeLeft, "on_epoch_end", interrupted)
            assert run(*arguments("resumed")) == 130
        assert not (tmp_path / "resumed/results.json").exists()
        assert run(*arguments("resumed")) == 0
    whole, resumed = (
        loading.load(tmp_path / name / "network.keras").get_weights()
        for name in ("whole", "resumed")
    )
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    with in_process(explaining) as run:
        out = tmp_path / "explained"
        assert run(f"--model={tmp_path / 'whole'}", f"--dataset={pets}", f"--out={out}") == 0
    found = json.loads((out / "explanations.json").read_text())
    assert max(row["completeness_error"] for row in found["images"]) < 1e-4
    assert {row["predicted_name"] for row in found["images"]} <= {"cat", "dog"}
    with in_process(export) as run:
        assert run(f"--work_dir={tmp_path / 'whole'}", f"--to={tmp_path / 'served'}") == 0
    assert loading.load_served(tmp_path / "served").metadata["classes"] == ["cat", "dog"]
