"""Architectures with a new last layer: weights, what is trained, pixels and refusals."""

import keras
import numpy as np
import pytest

from tests.helpers import tiny_application
from tfgrad import loading, models
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.loading import applications

SIDE, NAME = tiny_application.SIDE, "MobileNet"
NAMES = ("cat", "dog", "elk")


def pixels(count=2, white=255.0):
    unit = np.random.default_rng(0).uniform(0, 1, (count, SIDE, SIDE, 3))
    return (white * unit).astype("float32")


_REAL = applications.built, applications._SIDES


@pytest.fixture
def real(monkeypatch):
    """What builds the architectures themselves, for images of their own sizes."""
    monkeypatch.setattr(applications, "_SIDES", _REAL[1])
    return _REAL[0]


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_application.in_place():
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of a whole architecture, and of the same without its last layers."""
    keras.utils.set_random_seed(1)
    whole = tiny_application.built(NAME, None, None)
    whole.get_layer("bn").moving_mean.assign([0.1, -0.2, 0.3, 0.4])
    features = tiny_application.built(NAME, None, (SIDE, SIDE), include_top=False)
    features.set_weights(whole.get_weights()[:-2])
    folder = tmp_path_factory.mktemp("weights")
    whole.save_weights(folder / "whole.weights.h5")
    whole.save(folder / "whole.keras")
    features.save_weights(folder / "features.weights.h5")
    return folder, features


@pytest.fixture(scope="module")
def start(files):
    return loading.pretrained(
        NAME, files[0] / "whole.weights.h5", (SIDE, SIDE), classes=NAMES, image_range=(0, 1)
    )


def test_the_features_of_a_file_below_a_new_layer(files, start):
    assert (start.class_names, start.image_size) == (NAMES, (SIDE, SIDE))
    assert start.image_range == (0.0, 1.0) == models.image_range(start.network)
    assert start.network.output_shape == (None, 3)
    head = start.network.layers[-1]
    scaled = keras.applications.mobilenet.preprocess_input(pixels())
    expected = files[1](scaled, training=False).numpy() @ head.kernel.numpy()
    np.testing.assert_allclose(
        start.network(pixels(white=1.0), training=False), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("file", ["features.weights.h5", "whole.keras"])
def test_other_files_of_the_same_weights(files, start, file):
    found = loading.pretrained(NAME, files[0] / file, (SIDE, SIDE), classes=4)
    assert found.class_names is None and found.network.output_shape == (None, 4)
    assert found.image_range == (0.0, 255.0) == models.image_range(found.network)
    expected = start.network.layers[-2].get_weights()
    for one, other in zip(found.network.layers[-2].get_weights(), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_batch_normalisation_of_trained_features_is_not_trained(start):
    network, x = start.network, pixels(white=1.0)
    before = network(x, training=False)
    layer = network.layers[-2].get_layer("bn")
    np.testing.assert_array_equal(network(x, training=True), before)
    np.testing.assert_allclose(layer.moving_mean, [0.1, -0.2, 0.3, 0.4])
    trained = {variable.path.rpartition("/")[2] for variable in network.trainable_variables}
    assert not layer.trainable_variables and trained == {"kernel", "bias", "gamma", "beta"}


def test_random_features_are_trained_as_any_network():
    keras.utils.set_random_seed(0)
    found = loading.pretrained(NAME, None, (SIDE, SIDE), classes=2)
    norm = found.network.layers[-2].get_layer("bn")
    assert len(norm.trainable_variables) == 2 and norm.momentum == 0.5
    found.network.layers[-2].trainable = False
    assert found.network.trainable_variables == found.network.layers[-1].variables


def test_weights_that_do_not_fit(tmp_path):
    inputs = keras.Input((4,))
    other = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ModelError, match=r"other.weights.h5' does not fit .* with 1000 classes"):
        loading.pretrained(NAME, tmp_path / "other.weights.h5", (SIDE, SIDE), classes=2)
    with pytest.raises(ModelError, match=r"got 'no.h5', which does not exist"):
        loading.pretrained(NAME, "no.h5", (SIDE, SIDE), classes=2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (NAME, {"classes": 0}, r"classes: got 0; expected an integer ≥ 1, or two or more"),
        (NAME, {"classes": ("cat",)}, "two or more different names"),
        (NAME, {"classes": ("cat", "cat")}, "two or more different names"),
        (NAME, {"classes": "cat"}, "two or more different names"),
        (NAME, {"image_range": (-1, 1)}, r"image_range: got \(-1, 1\); expected \(0, 255\) or"),
        ("hf://x/y", {"classes": 3}, "classes: got 3 for hf://x/y, a preset of KerasHub"),
        ("hf://x/y", {"image_range": (0, 1)}, r"a preset of KerasHub; expected \(0, 255\)"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(ArgumentError, match=message):
        loading.pretrained(name, None, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", applications.APPLICATIONS)
def test_the_size_and_the_first_weights_of_every_architecture(name, real):
    whole = real(name, None, None)
    side = applications.image_size(name)
    assert whole.input_shape[1:3] in (side, (None, None))
    features = real(name, None, side, include_top=False, pooling="avg")
    shapes = [variable.shape for variable in features.weights]
    assert [variable.shape for variable in whole.weights[: len(shapes)]] == shapes


@pytest.mark.slow
def test_the_features_of_a_real_architecture(real, monkeypatch, tmp_path):
    whole = real("MobileNetV2", None, None)
    whole.save_weights(tmp_path / "whole.weights.h5")
    monkeypatch.setattr(applications, "built", real)
    found = loading.pretrained("MobileNetV2", tmp_path / "whole.weights.h5", classes=2)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 224, 224, 3)).astype("float32")
    expected = keras.Model(whole.input, whole.layers[-2].output)(x)
    np.testing.assert_allclose(found.network.layers[-2](x), expected, rtol=1e-5, atol=1e-6)
