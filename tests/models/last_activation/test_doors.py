"""Explanations and tests take softmax and sigmoid models, as `tfgrad.models.logits` of them."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.last_activation_cases import (
    SHAPE,
    SIGMOIDS,
    L,
    functional,
    images,
    subclassed,
    with_biases,
)
from tfgrad import evaluation, export, loading, models, saliency, sampling
from tfgrad.errors import LogitsWarning, ModelError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
LABELS = np.array([0, 1, 2, 3, 0, 1])


def batches():
    return tf.data.Dataset.from_tensor_slices((images(6), LABELS)).batch(3)


def numbers(result):
    """The arrays of a result, for comparison."""
    if isinstance(result, evaluation.Measurement):
        return [np.asarray(result.values), *map(np.asarray, result.columns.values())]
    return [np.asarray(t) for t in tf.nest.flatten(result)]


def decomposed(model):
    full = tfgrad.full_gradients(model, images())
    assert full.completeness_error().numpy().max() < 1e-4
    return full.score, full.input_gradient, list(full.bias_gradients.values())


def compared(model):
    result = evaluation.compare(model, batches(), ["input_gradient"], ["completeness"], images=3)
    assert not result.failures
    return [m.values for row in result.measurements.values() for m in row.values()]


DOORS = {
    "method": lambda model: saliency.InputGradient(model)(images()),
    "fullgrad": lambda model: saliency.FullGrad(model)(images(), 2),
    "smooth": lambda model: saliency.Smooth(saliency.InputGradient(model), samples=2)(images()),
    "gradcam": lambda model: saliency.GradCAM(model)(images()),
    "decomposition": decomposed,
    "ascent": lambda model: (
        sampling.gradient_ascent(model, 1, images(), steps=2, bounds=None).images
    ),
    "noise": lambda model: evaluation.noise_robustness(model, batches(), (0.0, 0.5)),
    "density": lambda model: evaluation.density_ratios(model, batches(), (0.1,)),
    "energy": lambda model: evaluation.energy_share(
        model, batches(), np.pad(np.ones((3, 3)), ((0, 3), (0, 3)))
    ),
    "pixels": lambda model: evaluation.pixel_perturbation(
        model, batches(), "random", (0.5,), score="probability of the label"
    ),
    "flip": lambda model: evaluation.class_flip(model, batches(), "random", 1, 2),
    "gan": lambda model: evaluation.gan_test(model, images(6), LABELS),
    "randomisation": lambda model: evaluation.randomisation(
        model, images(), saliency.get("input_gradient")
    ),
    "compare": compared,
}

SLOW = ("compare", "density", "flip", "gradcam", "pixels", "randomisation", "smooth")


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return with_biases(functional(lambda h: L.Dense(4, activation="softmax", name="end")(h))())


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "door", [pytest.param(door, marks=pytest.mark.slow) if door in SLOW else door for door in DOORS]
)
def test_a_softmax_model_is_taken_as_its_logits(door, model):
    with pytest.warns(LogitsWarning, match=r"the softmax of 'end' is left out.*models\.logits"):
        found = numbers(DOORS[door](model))
    expected = numbers(DOORS[door](models.logits(model)))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_it_is_said_once_and_names_the_line_of_the_user(model):
    with pytest.warns(LogitsWarning) as caught:
        saliency.FullGrad(model)
        tfgrad.full_gradients(model, images())
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saliency.InputGradient(models.logits(functional(L.Dense(4, activation="softmax"))()))


@pytest.mark.sample(2)
@pytest.mark.parametrize("end", ["nothing", "keras operation"])
def test_a_subclassed_model(end):
    model = with_biases(subclassed(end, activation="softmax" if end == "nothing" else None)())
    with pytest.warns(LogitsWarning):
        full = tfgrad.full_gradients(model, images())
    p = model(images()).numpy()
    f = models.logits(model)(images()).numpy()
    np.testing.assert_allclose(full.score, f.max(-1), rtol=1e-6)
    np.testing.assert_allclose(f[:, 1:] - f[:, :1], np.log(p[:, 1:] / p[:, :1]), atol=1e-4)
    assert full.completeness_error().numpy().max() < 1e-5
    assert "dense" in "".join(full.bias_gradients)
    assert saliency.InputGradient(model).network is models.logits(model)


@pytest.mark.sample(2)
@pytest.mark.filterwarnings("ignore::tfgrad.errors.ImageRangeWarning")
@pytest.mark.parametrize("build", [None, subclassed("nothing", activation="softmax")])
def test_an_export_serves_the_probabilities_of_the_model(build, model, tmp_path):
    model = model if build is None else with_biases(build())
    with pytest.warns(LogitsWarning):
        method = saliency.InputGradient(model)
    path = export.save(model, tmp_path / "served", [method])
    signatures = loading.load_served(path).signatures
    x = tf.constant(images())
    served = signatures["serving_default"](image=x)
    np.testing.assert_allclose(served["probabilities"], model(x), atol=1e-6)
    out = signatures["input_gradient"](image=x, target=tf.fill([3], -1))
    np.testing.assert_allclose(out["saliency"], method(images()), atol=1e-6)


@pytest.mark.slow
def test_a_method_of_a_comparison_may_be_built_on_the_softmax_model(model):
    with pytest.warns(LogitsWarning):
        method = saliency.InputGradient(model)
    result = evaluation.compare(model, batches(), {"mine": method}, ["completeness"], images=3)
    assert not result.failures


def test_a_sigmoid_model_has_two_classes():
    model = with_biases(SIGMOIDS["binary"][0]())
    with pytest.warns(LogitsWarning, match="the sigmoid of"):
        method = saliency.InputGradient(model)
    np.testing.assert_array_equal(method(images()), method(images(), -1))
    scores = [tfgrad.full_gradients(model, images(), k).score for k in (0, 1)]
    np.testing.assert_allclose(tf.nn.sigmoid(scores[1]), model(images())[:, 0], atol=1e-6)
    np.testing.assert_allclose(scores[0], -scores[1], rtol=1e-6)
    accuracy = evaluation.noise_robustness(
        model, tf.data.Dataset.from_tensors((images(6), LABELS % 2)), (0.0,)
    ).values[0]
    assert accuracy == np.mean((model(images(6)).numpy()[:, 0] > 0.5) == LABELS % 2)


def test_training_names_what_to_change(model):
    message = r"'end' returns probabilities.*activation=None.*models\.logits.*from_logits=True"
    with pytest.raises(ModelError, match=message):
        tfgrad.PenalizedModel(model, [tfgrad.penalties.GradientNorm(0.1)])
    with pytest.raises(ModelError, match=message):
        tfgrad.penalties.GradientNorm(0.1).per_example(model, images(4), LABELS[:4])


def test_a_penalty_trains_the_weights_of_the_softmax_model(model):
    kernel = model.get_layer("end").kernel.numpy()
    trained = tfgrad.PenalizedModel(models.logits(model), [tfgrad.penalties.GradientNorm(0.1)])
    trained.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    trained.fit(images(4), LABELS[:4], verbose=0)
    assert not np.allclose(model.get_layer("end").kernel.numpy(), kernel)


@pytest.mark.parametrize(
    "end",
    [
        lambda h: L.Average()([L.Dense(4, activation="softmax")(h) for _ in range(2)]),
        lambda h: (lambda p: L.Concatenate()([1.0 - p, p]))(L.Dense(1, activation="sigmoid")(h)),
        lambda h: (lambda p: p / keras.ops.sum(p, -1, keepdims=True))(
            keras.ops.sqrt(L.Dense(4, activation="softmax")(h))
        ),
    ],
)
def test_mixtures_of_probabilities_are_rejected(end):
    model = functional(end)()
    for door in (saliency.InputGradient, lambda model: tfgrad.full_gradients(model, images())):
        with pytest.raises(ModelError, match=r"outputs in \[0, 1\] that sum to 1.*keras\.ops\.log"):
            door(model)


def test_a_classifier_with_a_dict_of_one_input():
    image = keras.Input(SHAPE, name="image")
    end = L.Dense(4, activation="softmax")(L.Flatten()(image))
    model = keras.Model({"image": image}, end)
    with pytest.warns(LogitsWarning):
        method = saliency.InputGradient(model)
    f = models.logits(model)({"image": tf.constant(images())})
    np.testing.assert_array_equal(method.explain(tf.constant(images()))["score"], np.max(f, -1))
