"""Commands take an `.h5` file of a softmax classifier, and say what they leave out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps import export
from apps.common import trained_networks
from tests.helpers.app_run import in_process
from tfgrad import loading

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def file(tmp_path):
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(keras.layers.Conv2D(2, 3, activation="relu")(image))
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(flat), name="mine")
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.save(tmp_path / "mine.h5")
    return tmp_path / "mine.h5", model


@pytest.mark.long
def test_export(file, tmp_path, capsys):
    path, model = file
    to = tmp_path / "served"
    with in_process(export) as run:
        assert run(f"--model={path}", f"--to={to}", "--image_range=0,1") == 0
    assert "mine.h5: returns probabilities; its last activation is left out" in (
        capsys.readouterr().err
    )
    x = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    served = loading.load_served(to).signatures["serving_default"](image=tf.constant(x))
    np.testing.assert_allclose(served["probabilities"], model(x), atol=1e-6)


def test_a_record_beside_the_file(file):
    path, _ = file
    path.with_suffix(".json").write_text('{"normalize": null, "accuracy": 0.5}')
    learned = trained_networks.Learned(str(path))
    assert learned.accuracy == 0.5 and learned.record["normalize"] is None
