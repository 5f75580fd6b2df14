"""What an export serves for one logit, independent labels and regressions."""

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.one_logit import compiled_pair, images, pair
from tfgrad import errors, export

X = images(4)


def served(network, path, **options):
    """The signatures and the metadata of an exported network."""
    version = export.save(network, path, ["input_gradient"], image_range=(0, 1), **options)
    with open(os.path.join(version, "assets.extra", "tfgrad.json")) as file:
        metadata = json.load(file)
    return tf.saved_model.load(version).signatures, metadata


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    return [
        served(network, tmp_path_factory.mktemp("served"), warmup=False)
        for network in compiled_pair()
    ]


@pytest.mark.long
def test_one_logit_is_served_as_two_classes(one_and_two):
    (one, metadata), (two, _) = one_and_two
    found, expected = (s["serving_default"](image=X) for s in (one, two))
    np.testing.assert_allclose(found["logits"], expected["logits"][:, 1:], rtol=1e-6)
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=1e-6)
    assert metadata["outputs"] == 1 and metadata["meaning"] == "binary"


@pytest.mark.parametrize("target", [0, 1, -1])
def test_maps_of_one_logit(one_and_two, target):
    (one, _), (two, _) = one_and_two
    targets = tf.fill([len(X)], target)
    found = one["input_gradient"](image=X, target=targets)
    logits = one["serving_default"](image=X)["logits"].numpy()[:, 0]
    classes = (logits > 0).astype(int) if target < 0 else np.full(len(X), target)
    assert np.array_equal(found["class"], classes)
    np.testing.assert_allclose(found["score"], np.where(classes, logits, -logits), rtol=1e-6)
    of_one = two["input_gradient"](image=X, target=tf.ones([len(X)], tf.int32))
    np.testing.assert_allclose(found["saliency"], of_one["saliency"], rtol=1e-5, atol=1e-7)


def test_a_class_that_one_logit_does_not_have(one_and_two):
    (one, _), _ = one_and_two
    with pytest.raises(tf.errors.InvalidArgumentError, match="0 to 1, or -1"):
        one["input_gradient"](image=X, target=tf.fill([len(X)], 2))


def three_outputs(loss):
    random = keras.initializers.RandomNormal(0.0, 0.3, 1)
    network = keras.Sequential(
        [keras.Input((6, 5, 2)), keras.layers.Flatten(), keras.layers.Dense(3, None, True, random)]
    )
    if loss:
        network.compile("sgd", loss)
    return network


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("loss", "options", "meaning"),
    [
        (keras.losses.BinaryCrossentropy(from_logits=True), {}, "independent"),
        (None, {"outputs": "independent"}, "independent"),
        ("mse", {}, "regression"),
        (None, {}, "exclusive"),
    ],
)
def test_probabilities_of_several_outputs(tmp_path, loss, options, meaning):
    network = three_outputs(loss)
    signatures, metadata = served(network, tmp_path, **options)
    found = signatures["serving_default"](image=X)
    logits = network.predict(X, verbose=0)
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-6)
    assert metadata["meaning"] == meaning and metadata["outputs"] == 3
    if meaning == "regression":
        assert "probabilities" not in found
        with pytest.raises(tf.errors.InvalidArgumentError, match="expected classes 0 to 2"):
            signatures["input_gradient"](image=X, target=tf.fill([len(X)], -1))
        return
    function = tf.sigmoid if meaning == "independent" else tf.nn.softmax
    np.testing.assert_allclose(found["probabilities"], function(logits), rtol=1e-6)


def test_one_output_that_nothing_explains(tmp_path):
    network, _ = pair()
    with pytest.warns(errors.OutputMeaningWarning, match="one output"):
        export.save(network, tmp_path, ["input_gradient"], image_range=(0, 1), warmup=False)


def test_names_of_two_classes(tmp_path):
    network, _ = compiled_pair()
    _, metadata = served(network, tmp_path, classes=["no", "yes"], warmup=False)
    assert metadata["classes"] == ["no", "yes"]
