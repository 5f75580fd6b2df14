"""Every evaluation of one logit f of two classes, against the network with the logits [0, f]."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.one_logit import SHAPE, compiled_pair, images, pair
from tfgrad import callbacks, errors, evaluation, fooling, sampling
from tfgrad.saliency import InputGradient

X = images(8)
Y = np.array([1, 0, 0, 1, 1, 0, 1, 0])
DATA = tf.data.Dataset.from_tensor_slices((X, Y)).batch(5)
MASK = np.eye(*SHAPE[:2])


def gradients(network):
    return InputGradient(network, reduce="sum")


def of_positive(network):
    """Maps of class 1 for class 1, their opposite for class 0, on either network."""
    method = gradients(network)

    def maps(x, classes):
        signs = tf.cast(2 * tf.convert_to_tensor(classes) - 1, tf.float32)
        return signs[:, None, None] * method(x, tf.ones_like(classes))

    return maps


TESTS = {
    "noise": lambda f: evaluation.noise_robustness(f, DATA, (0.0, 0.5, 2.0), repeats=2),
    "attack": lambda f: evaluation.adversarial_robustness(f, DATA, (0.0, 0.2), value_range=None),
    "density of class 1": lambda f: evaluation.density_ratios(f, DATA, (0.1,), target=1),
    "energy of the logit": lambda f: evaluation.energy_share(f, DATA, MASK, target=1),
    "energy of the loss": lambda f: evaluation.energy_share(
        f, DATA, MASK, of="loss", temperature=3.0
    ),
    "gan": lambda f: evaluation.gan_test(f, X, Y, 2),
    "flip": lambda f: evaluation.class_flip(f, DATA, of_positive(f), 1, 0),
    "flip back": lambda f: evaluation.class_flip(f, DATA, of_positive(f), 0, 1),
    "completeness": lambda f: evaluation.completeness(f, X, gradients, target=1),
    "randomisation": lambda f: evaluation.randomisation(f, X, gradients, target=1),
    "biases": lambda f: evaluation.bias_sensitivity(f, X, gradients, target=1),
    "shift": lambda f: evaluation.shift_agreement(f, X, gradients, 0.5, target=1),
}


def numbers(measurement):
    return [measurement.values, measurement.deviations, *measurement.columns.values()]


def check_equal(found, expected):
    assert list(found.columns) == list(expected.columns)
    for a, b in zip(numbers(found), numbers(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.sample(4, start=1)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("biases", "randomisation") else [])
        for name in TESTS
    ],
)
def test_the_numbers_are_those_of_two_logits(name):
    one, two = compiled_pair()
    check_equal(TESTS[name](one), TESTS[name](two))


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize("score", ["accuracy", "probability of the label"])
def test_pixel_perturbation(score):
    one, two = compiled_pair()
    found, expected = (
        evaluation.pixel_perturbation(f, DATA, of_positive(f), (0.0, 0.5), score=score)
        for f in (one, two)
    )
    assert found.values == pytest.approx(expected.values, rel=1e-6)
    change = "change of the top probability"
    assert found.columns[change] == pytest.approx(expected.columns[change], rel=1e-5)


@pytest.mark.long
def test_labels_in_every_form():
    one, _ = compiled_pair()
    of_integers = evaluation.noise_robustness(one, DATA, (0.0,))
    for labels in (Y.astype("float32"), Y.astype(bool), Y[:, None], np.eye(2)[Y]):
        data = tf.data.Dataset.from_tensor_slices((X, labels)).batch(5)
        assert evaluation.noise_robustness(one, data, (0.0,)).values == of_integers.values
    data = tf.data.Dataset.from_tensor_slices((X, Y + 0.25)).batch(5)
    with pytest.raises(errors.ArgumentError, match=r"batches: got labels that .* \[1\.25\]"):
        evaluation.noise_robustness(one, data, (0.0,))


@pytest.mark.slow
def test_compare_counts_both_classes():
    one, two = compiled_pair()
    found, expected = (
        evaluation.compare(f, DATA, {"g": of_positive(f)}, ["pixels"], images=4) for f in (one, two)
    )
    for method in ("g", "random"):
        both = [r.measurements["pixels"][method] for r in (found, expected)]
        np.testing.assert_allclose(both[0].values, both[1].values, rtol=1e-5)
        accuracies = [measurement.columns["accuracy"] for measurement in both]
        assert accuracies[0] == accuracies[1]


@pytest.mark.long
def test_the_argument_and_a_regression():
    one, _ = pair()
    with pytest.warns(errors.OutputMeaningWarning):
        evaluation.noise_robustness(one, DATA, (0.0,))
    other, _ = pair()
    evaluation.noise_robustness(other, DATA, (0.0,), outputs="binary")
    for test in (evaluation.noise_robustness, evaluation.density_ratios):
        with pytest.raises(errors.ArgumentError, match="regression"):
            test(other, DATA, (0.1,), outputs="regression")
    assert evaluation.completeness(other, X, gradients, outputs="regression").examples == 8


def test_the_transfer_bound():
    (one, two), (teacher, of_two) = compiled_pair(), pair(seed=7)
    found, expected = (
        evaluation.transfer_bound(s, t, X[:4], X[4:]) for s, t in ((one, teacher), (two, of_two))
    )
    assert found.bound == pytest.approx(expected.bound, rel=1e-6)
    assert found.gradient == pytest.approx(expected.gradient, rel=1e-6)


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize("y", [Y, np.eye(2)[Y]])
def test_the_angle_to_a_teacher(y):
    one, _ = pair()
    teacher, _ = pair(seed=7)
    angles = []
    for target in ("label", 1):
        angle = callbacks.GradientAngle(teacher, X, y, target)
        one.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
        one.optimizer.learning_rate = 0.0
        angles += one.fit(X, Y, verbose=0, callbacks=[angle]).history["gradient_angle"]
    assert 0 < angles[0] < 180 and angles[0] == pytest.approx(angles[1], rel=1e-6)


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize("rule", [sampling.gradient_ascent, sampling.langevin])
def test_samples(rule):
    (one, two), (_, negated) = compiled_pair(), compiled_pair(negated=True)
    run = functools.partial(rule, steps=3, step_size=0.05, bounds=None)
    found, expected = run(one, 1, X), run(two, 1, X)
    np.testing.assert_allclose(found.images, expected.images, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    assert found.outputs == expected.outputs == 2
    np.testing.assert_allclose(run(one, 0, X).images, run(negated, 1, X).images, atol=1e-6)
    assert np.array_equal(run(one, "predicted", X).classes, one.predict(X, verbose=0)[:, 0] > 0)


@pytest.mark.long
def test_fooled_models():
    one, two = compiled_pair()
    picture = fooling.Picture(MASK, 3.0)
    phases = fooling.Picture(MASK, [5.0, 2.0])
    for make in (
        lambda f: fooling.shared_shift(f, picture),
        lambda f: fooling.per_class_shift(f, phases, 0.1),
    ):
        found, expected = make(one), make(two)
        np.testing.assert_allclose(found(X), expected(X), rtol=1e-6, atol=1e-6)
        maps = [gradients(f)(X, 0) for f in (found, expected)]
        np.testing.assert_allclose(*maps, rtol=1e-5, atol=1e-6)
    shifted = tf.nn.softmax(fooling.shared_shift(one, picture)(X))[:, 1]
    np.testing.assert_allclose(shifted, tf.sigmoid(one(X))[:, 0], rtol=1e-5)
    with pytest.raises(errors.ArgumentError, match="regression"):
        fooling.shared_shift(one, picture, outputs="regression")
