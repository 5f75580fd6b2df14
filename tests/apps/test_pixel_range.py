"""The range of pixels that commands pass to a network: of its record, its first layers, a flag."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps import export as export_command
from apps import sample
from apps.common import trained_networks
from apps.explain import __main__ as explain
from tests.helpers.app_run import in_process
from tfgrad import loading
from tfgrad.internal import files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Networks whose logits are the mean pixel of each channel, of images in several ranges."""
    path = tmp_path_factory.mktemp("models")
    for name, layer in {
        "signed": keras.layers.Rescaling(1 / 127.5, -1),
        "bytes": keras.layers.Rescaling(1 / 255),
        "bare": keras.layers.Activation("linear"),
        "run": keras.layers.Activation("linear"),
    }.items():
        keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layer,
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(3, kernel_initializer="identity"),
            ]
        ).save(path / f"{name}.keras")
    files.write_json(path / "run.json", {"normalize": [[0.5] * 3, [0.25] * 3]})
    pixels = np.full((8, 8, 3), (51, 102, 204), "uint8")
    tf.io.write_file(str(path / "image.png"), tf.io.encode_png(pixels))
    return path


# The logits of the image above, by network.
PIXELS = np.array([0.2, 0.4, 0.8])
EXPECTED = {"signed": 2 * PIXELS - 1, "bytes": PIXELS, "run": 4 * PIXELS - 2}
RANGES = {"signed": (0, 255), "bytes": (0, 255), "run": (0, 1)}


def explained(folder, out, *arguments):
    with in_process(explain) as app:
        asked = (f"--images={folder / 'image.png'}", "--methods=input_gradient", f"--out={out}")
        code = app(*arguments, *asked)
    return code, json.loads((out / "explanations.json").read_text()) if code == 0 else None


@pytest.mark.sample(3, start=1)
@pytest.mark.parametrize("name", EXPECTED)
def test_images_are_explained_in_the_networks_range(folder, tmp_path, name):
    code, record = explained(folder, tmp_path / "out", f"--model={folder / name}.keras")
    assert code == 0 and record["image_range"] == list(RANGES[name])
    assert record["images"][0]["score"] == pytest.approx(EXPECTED[name].max(), abs=1e-5)


def test_a_range_that_nothing_tells_is_asked_for(folder, tmp_path, capsys):
    model = f"--model={folder / 'bare.keras'}"
    assert explained(folder, tmp_path / "out", model)[0] == 64
    assert "--image_range: got none, and " in capsys.readouterr().err
    code, record = explained(folder, tmp_path / "out", model, "--image_range=0,255")
    assert code == 0
    assert record["images"][0]["score"] == pytest.approx(204, abs=1e-3)


def test_a_range_that_contradicts_the_network_is_followed_and_named(folder, tmp_path, capsys):
    model = f"--model={folder / 'bytes.keras'}"
    code, record = explained(folder, tmp_path / "out", model, "--image_range=0,1")
    assert code == 0 and record["image_range"] == [0, 1]
    assert "take pixels in (0.0, 255.0); the flag is followed" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.sample(3)
@pytest.mark.parametrize("name", EXPECTED)
def test_an_export_serves_encoded_images_in_that_range(folder, tmp_path, name):
    with in_process(export_command) as app:
        asked = (f"--model={folder / name}.keras", f"--to={tmp_path}", "--methods=")
        assert app(*asked) == 0
    served = loading.load_served(tmp_path / "1")
    assert served.metadata["image_range"] == list(RANGES[name])
    image_bytes = tf.constant([(folder / "image.png").read_bytes()])
    logits = served.signatures["encoded"](image_bytes=image_bytes, target=tf.constant([-1]))
    np.testing.assert_allclose(logits["logits"][0], EXPECTED[name], atol=1e-5)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_command_passes_images_in_that_range(folder, name):
    learned = trained_networks.Learned(str(folder / f"{name}.keras"))
    image = np.full((1, 8, 8, 3), PIXELS, "float32")
    np.testing.assert_allclose(learned.on_pixels()(image)[0], EXPECTED[name], atol=1e-5)
    statistics = learned.statistics(None)
    normalised = (image - statistics[0]) / statistics[1]
    np.testing.assert_allclose(learned.network(normalised)[0], EXPECTED[name], atol=1e-5)
    network, _ = sample._load("judge", learned.path)
    np.testing.assert_allclose(network(image)[0], EXPECTED[name], atol=1e-5)


def test_a_network_that_does_not_tell_is_noted(folder, capsys):
    learned = trained_networks.Learned(str(folder / "bare.keras"))
    assert "normalize" not in learned.record
    trained_networks.note_unknown(learned)
    assert "they are taken to be in [0, 1]" in capsys.readouterr().out
