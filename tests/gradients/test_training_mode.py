"""Networks whose first layer would put a bare call into training mode.

In Keras 3.15 the preprocessing layers of images have `call(data, training=True)`, and a call that
does not say `training` takes it from there for all layers behind.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tfgrad import export, saliency

L = keras.layers


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = L.BatchNormalization(name="norm")(L.Conv2D(4, 3)(L.Resizing(8, 8)(inputs)))
    x = L.Dropout(0.5)(L.Flatten()(L.ReLU()(x)))
    model = keras.Model(inputs, L.Dense(3)(x))
    model.get_layer("norm").moving_mean.assign([0.1, -0.2, 0.3, 0.4])
    return model


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")


def test_explanations_are_of_inference(x, tmp_path):
    """FullGrad's terms add up to what `predict` returns; nothing moves; the export agrees."""
    model = network()
    before = [np.array(w) for w in model.get_weights()]
    predicted = model.predict(x, verbose=0)
    full = tfgrad.full_gradients(model, x)
    np.testing.assert_allclose(full.score, predicted.max(1), rtol=1e-5)
    assert np.max(full.completeness_error()) < 1e-5
    with tf.GradientTape() as tape:
        variable = tf.Variable(x)
        score = tf.reduce_max(model(variable, training=False), 1)
    gradient = tape.gradient(score, variable)
    np.testing.assert_allclose(full.input_gradient, gradient, rtol=1e-4, atol=1e-6)
    maps = saliency.InputGradient(model)(x)
    path = export.save(model, str(tmp_path / "served"), ["input_gradient"], image_range=(0, 1))
    served = tf.saved_model.load(path).signatures
    found = served["serving_default"](image=tf.constant(x))["logits"]
    np.testing.assert_allclose(found, predicted, rtol=1e-4, atol=1e-5)
    answer = served["input_gradient"](image=tf.constant(x), target=tf.fill([4], -1))
    np.testing.assert_allclose(answer["saliency"], maps, rtol=1e-4, atol=1e-6)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_evaluation_is_of_inference(x):
    model = network()
    labels = model.predict(x, verbose=0).argmax(1)
    data = tf.data.Dataset.from_tensor_slices((x, labels)).batch(2)
    rows = tfgrad.evaluation.noise_robustness(model, data, sigmas=[0.0], repeats=2)
    assert rows.values[0] == 1.0
