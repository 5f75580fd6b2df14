"""Exports of models with several inputs, of token ids, without logits, and of targets."""

import os
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.variants import with_slow
from tfgrad import export, loading, saliency, targets
from tfgrad.errors import ArgumentError, ModelError

L = keras.layers


@pytest.fixture(scope="module")
def mixed():
    keras.utils.set_random_seed(0)
    inputs = {
        "image": keras.Input((6, 6, 1), name="image"),
        "table": keras.Input((4,), name="table"),
        "ids": keras.Input((5,), dtype="int32", name="ids"),
    }
    image = L.Flatten()(L.Conv2D(2, 3, activation="gelu")(inputs["image"]))
    tokens = L.Flatten()(L.Embedding(10, 3)(inputs["ids"]))
    joined = L.Concatenate()([image, inputs["table"], tokens])
    return keras.Model(inputs, L.Dense(3)(L.Dense(4, activation="gelu")(joined)))


def examples(count=2):
    random = np.random.default_rng(1)
    return {
        "image": tf.constant(random.normal(size=(count, 6, 6, 1)), tf.float32),
        "table": tf.constant(random.normal(size=(count, 4)), tf.float32),
        "ids": tf.constant(random.integers(0, 10, (count, 5)), tf.int32),
    }


def segmenter():
    keras.utils.set_random_seed(1)
    image = keras.Input((6, 6, 3))
    features = L.Conv2D(4, 3, padding="same", activation="gelu")(image)
    return keras.Model(image, L.Conv2D(3, 3, padding="same")(features))


def signatures_of(path):
    return tf.saved_model.load(path).signatures


def test_several_inputs_are_taken_by_name_and_explained_by_name(mixed, tmp_path):
    path = export.save(
        mixed,
        tmp_path / "mixed",
        ["input_gradient"],
        ["a", "b", "c"],
        targets=[targets.Contrast()],
        outputs="exclusive",
    )
    served, x = signatures_of(path), examples(3)
    method = saliency.InputGradient(mixed, outputs="exclusive")
    np.testing.assert_allclose(served["serving_default"](**x)["logits"], mixed(x), atol=1e-6)
    answer = served["input_gradient"](target=tf.constant([-1, 2, 0]), **x)
    for name, values in method(x, [-1, 2, 0]).items():
        np.testing.assert_allclose(answer[f"saliency_{name}"], values, rtol=1e-5, atol=1e-6)
    pair = {"a": tf.constant([-1, 2, 0]), "b": tf.constant([-1, -1, 1])}
    answer = served["input_gradient_contrast"](**pair, **x)
    assert "class" not in answer
    for name, values in method(x, targets.Contrast(**pair)).items():
        np.testing.assert_allclose(answer[f"saliency_{name}"], values, rtol=1e-5, atol=1e-6)
    assert loading.load_served(path).signatures.keys() == served.keys()


@pytest.mark.long
def test_bad_requests_fail(mixed, tmp_path):
    path = export.save(mixed, tmp_path / "m", ["input_gradient"], outputs="exclusive")
    run, x = signatures_of(path)["input_gradient"], examples()
    target = tf.constant([0, 0])
    for change, words in (
        ({"table": x["table"] * np.nan}, "table: got NaN"),
        ({"table": x["table"][:1]}, "another number of examples"),
        (examples(0), "empty batch"),
        ({"target": tf.constant([0, 7])}, "expected -1 to 2"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=words):
            run(**{**x, "target": target, **change})


@pytest.mark.long
def test_a_mask_comes_with_each_request(tmp_path):
    network = segmenter()
    region = targets.Region(2, mask=None)
    path = export.save(network, tmp_path / "m", ["fullgrad"], targets=[region])
    served = signatures_of(path)
    assert set(served) == {"serving_default", "fullgrad_region"}
    random = np.random.default_rng(2)
    x = tf.constant(random.normal(size=(2, 6, 6, 3)), tf.float32)
    mask = tf.constant(random.integers(0, 2, (2, 6, 6)), tf.float32)
    answer = served["fullgrad_region"](image=x, mask=mask)
    expected = saliency.FullGrad(network, target=targets.Region(2, mask)).explain(x)
    np.testing.assert_allclose(answer["saliency"], expected["saliency"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(answer["score"], expected["score"], rtol=1e-5)
    np.testing.assert_allclose(served["serving_default"](image=x)["output"], network(x), atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize(
    "joined",
    with_slow([L.GlobalAveragePooling1D], [lambda: L.GRU(4)]),
    ids=["mean", "recurrent"],
)
def test_token_ids_are_taken_and_masked(tmp_path, joined):
    keras.utils.set_random_seed(2)
    ids = keras.Input((6,), dtype="int32")
    network = keras.Model(ids, L.Dense(3)(joined()(L.Embedding(9, 3, mask_zero=True)(ids))))
    path = export.save(network, tmp_path / "m", ["input_times_gradient"], outputs="exclusive")
    tokens = tf.constant([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 1]])
    answer = signatures_of(path)["input_times_gradient"](
        token_ids=tokens, target=tf.constant([-1, 1])
    )
    live = saliency.InputTimesGradient(network, outputs="exclusive")(tokens, [-1, 1])
    np.testing.assert_allclose(answer["saliency"], live, rtol=1e-5, atol=1e-7)
    assert not np.any(answer["saliency"][0, 3:])
    assert np.all(answer["saliency"][0, :3])


@pytest.mark.parametrize("name", ["depth map", "input-1", "_x", "class"])
def test_names_that_no_argument_has_are_refused(name, tmp_path):
    inputs = {"rgb": keras.Input((3,), name="rgb"), name: keras.Input((2,))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras's, about names that differ
        network = keras.Model(inputs, L.Dense(2)(L.Concatenate()([*inputs.values()])))
        with pytest.raises(ModelError, match=f"got inputs named .'{name}'.*letters, digits"):
            export.save(network, tmp_path, ["input_gradient"])
    assert not os.listdir(tmp_path)


def test_what_is_refused(mixed, tmp_path):
    network = segmenter()
    scalar = targets.Scalar(lambda outputs: tf.reduce_mean(outputs, [1, 2, 3]), "mean")
    for model, arguments, error, words in (
        (network, {}, ModelError, "expected a target"),
        (network, {"targets": [scalar, scalar]}, ArgumentError, "another one for each"),
        (network, {"targets": "mean"}, ArgumentError, "expected a list of"),
        (network, {"targets": [scalar], "classes": ["a"]}, ArgumentError, "no logits"),
        (mixed, {"preprocess": tf.identity}, ArgumentError, "preprocessing layers"),
    ):
        with pytest.raises(error, match=words):
            export.save(model, tmp_path / "m", ["input_gradient"], outputs=None, **arguments)
    assert not [*tmp_path.iterdir()]
