"""`PenalizedModel` around a model that runs a preprocessor in its own `fit` and `predict`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.task_model import Converter, photographs, task
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.models.preprocessors import own_preprocessor

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
LABELS = np.array([0, 1, 2, 3, 0])


def wrapped(model, *chosen, **options):
    around = tfgrad.PenalizedModel(model, chosen, **options)
    around.compile(keras.optimizers.SGD(0.1), LOSS, metrics=["accuracy"])
    return around


def test_predict_is_that_of_the_task():
    model, x = task(), photographs()
    expected = model.predict(x, verbose=0)
    around = wrapped(model)
    np.testing.assert_allclose(around.predict(x, verbose=0), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(around.predict_on_batch(x), expected, rtol=1e-6, atol=1e-6)
    batches = tf.data.Dataset.from_tensor_slices((x, LABELS)).batch(2)
    got = around.predict(batches, verbose=0)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    without = model(tf.image.resize(x, (8, 9))).numpy()  # what came out before
    assert np.abs(without - expected).max() > 1


def test_evaluate_is_that_of_preprocessed_images():
    model, x = task(), photographs()
    weights = np.arange(1.0, 6.0)
    got = wrapped(model).evaluate(x, LABELS, sample_weight=weights, verbose=0)
    preprocessed, model.preprocessor = model.preprocessor(x), None
    around = wrapped(model)
    expected = around.evaluate(preprocessed, LABELS, sample_weight=weights, verbose=0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("teacher", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_fit_makes_the_steps_of_preprocessed_images(teacher):
    ended = []
    for inside in (True, False):
        keras.utils.set_random_seed(1)
        model, x = task(), photographs()
        chosen, options = [tfgrad.penalties.GradientNorm(8000.0)], {}
        if teacher:
            chosen = [tfgrad.penalties.JacobianMatching(0.5)]
            options = {"teacher": task()}
        if not inside:
            x = model.preprocessor(x)
            for each in (model, *options.values()):
                each.preprocessor = None
        around = wrapped(model, *chosen, **options)
        history = around.fit(x, LABELS, epochs=2, shuffle=False, verbose=0).history["loss"]
        if teacher:  # recorded answers are those of preprocessed images, too
            lessons = around.lessons(x, LABELS)
            history += around.fit(lessons, LABELS, shuffle=False, verbose=0).history["loss"]
        ended.append((history, model.get_weights()))
    np.testing.assert_allclose(ended[0][0], ended[1][0], rtol=1e-5)
    for got, expected in zip(ended[0][1], ended[1][1], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_a_saved_model_keeps_the_preprocessor(tmp_path):
    around, x = wrapped(task()), photographs()
    around.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = around.predict(x, verbose=0)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, rtol=1e-6)


def test_a_model_without_its_softmax_keeps_the_preprocessor():
    model, x = task(activation="softmax"), photographs()
    logits = wrapped(tfgrad.models.logits(model)).predict(x, verbose=0)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(tf.nn.softmax(logits), expected, rtol=1e-5, atol=1e-6)


def test_replicas_build_from_preprocessed_images():
    with tf.distribute.OneDeviceStrategy("cpu").scope():
        model, x = task(), photographs()
        around = wrapped(model, tfgrad.penalties.GradientNorm(8000.0))
    around.fit(x, LABELS, verbose=0)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(around.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "use",
    [
        lambda model, x: tfgrad.full_gradients(model, x),
        lambda model, x: tfgrad.saliency.FullGrad(model)(x),
        lambda model, x: tfgrad.saliency.InputGradient(tfgrad.PenalizedModel(model))(x),
        lambda model, x: tfgrad.penalties.GradientNorm().per_example(model, x, LABELS),
        lambda model, x: tfgrad.evaluation.noise_robustness(model, [(x, LABELS)]),
        lambda model, x: tfgrad.evaluation.density_ratios(model, [(x, LABELS)]),
        lambda model, x: tfgrad.sampling.gradient_ascent(model, 0, x),
    ],
)
def test_calls_that_skip_it_are_rejected(use):
    with pytest.raises(ModelError, match=r"'task': got a model whose preprocessor 'converter.*'"):
        use(task(), photographs(size=(8, 9)) / 255)


def test_a_teacher_of_other_images_is_rejected():
    matching = tfgrad.penalties.JacobianMatching(0.5)
    with pytest.raises(ArgumentError, match=r"teacher: got 'task' with the preprocessor"):
        wrapped(task(), matching, teacher=task(scale=1 / 255))
    plain = task()
    plain.preprocessor = None
    with pytest.raises(ArgumentError, match=r"teacher: got 'task' with the preprocessor"):
        wrapped(plain, matching, teacher=task())


def test_a_layer_that_the_call_uses_is_no_preprocessor_of_predict():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.preprocessor = Converter()
            self.last = keras.layers.Dense(2)

        def call(self, x):
            return self.last(tf.reduce_mean(self.preprocessor(x), [1, 2]))

    model, x = Own(), photographs()
    expected = model.predict(x, verbose=0)
    assert own_preprocessor(model) is None
    got = tfgrad.PenalizedModel(model).predict(x, verbose=0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
