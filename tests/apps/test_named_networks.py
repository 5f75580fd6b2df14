"""Networks by their names in the commands that take trained networks."""

import json

import numpy as np
import pytest
import tensorflow as tf

from apps import export
from apps.common import digits_network, trained_networks
from tests.helpers.app_run import in_process
from tfgrad import data, loading
from tfgrad.errors import ModelError


@pytest.fixture
def small(monkeypatch):
    """MobileNet by its name, with random weights for small images."""
    found = loading.pretrained("MobileNet", None, (32, 32))
    monkeypatch.setattr(trained_networks, "pretrained", lambda name: found)
    return found


@pytest.fixture
def digits(monkeypatch):
    network = digits_network.train(data.load("digits", "train"), [], epochs=1)
    classes = tuple("0123456789")
    monkeypatch.setattr(digits_network, "trained", lambda: (network, classes))
    return network


def test_a_named_network_on_unit_pixels(small):
    learned = trained_networks.Learned("MobileNet")
    pixels = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype("float32")
    expected = small.network(255 * pixels, training=False)
    np.testing.assert_allclose(
        learned.on_pixels()(pixels, training=False), expected, rtol=1e-4, atol=1e-5
    )
    mean, deviation = learned.statistics(None)
    np.testing.assert_allclose((pixels - mean) / deviation, 255 * pixels, rtol=1e-5)
    assert learned.told and learned.accuracy is None
    assert learned.image_range == (0.0, 255.0)
    digests = {trained_networks.file_digest(name) for name in ("MobileNet", "VGG16", "digits")}
    assert len(digests) == 3


def test_digits_are_exported(digits, tmp_path, capsys):
    with in_process(export) as app:
        assert app("--model=digits", "--methods=input_gradient", f"--to={tmp_path / 's'}") == 0
        assert app("--model=digits", "--image_range=0,1", f"--to={tmp_path / 't'}") == 64
    assert "--image_range: got (0.0, 1.0) for digits" in capsys.readouterr().err
    served = loading.load_served(tmp_path / "s")
    x = data.load("digits", "test").images[:3]
    found = served.signatures["serving_default"](image=tf.constant(x))["logits"]
    np.testing.assert_allclose(found, digits(x), rtol=1e-5, atol=1e-5)
    assert json.loads(json.dumps(served.metadata))["classes"] == list("0123456789")


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_bytes(b"")
    with pytest.raises(ModelError, match="digits"):
        trained_networks.Learned("digits")
