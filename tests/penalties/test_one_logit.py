"""Every penalty on one logit f of two classes, against the network with the logits [0, f]."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.one_logit import SHAPE, compiled_pair, images, pair
from tfgrad import errors, penalties
from tfgrad.penalties import GradientNorm, JacobianMatching

X, Y = images(4, dtype="float64"), np.array([1, 0, 0, 1])
MASK = np.eye(*SHAPE[:2])
ONE_CLASS = {
    "norm of a log-probability": lambda t: GradientNorm(target=t, loss="cross_entropy"),
    "jacobian, cross-entropy": lambda t: JacobianMatching(
        target=t, loss="cross_entropy", temperature=2.0
    ),
}
# These follow the logit, −f for class 0.
OF_LOGIT = {
    "norm": lambda t: GradientNorm(target=t),
    "jacobian": lambda t: JacobianMatching(target=t),
    "score matching": lambda t: penalties.ScoreMatching(target=t, estimator="antithetic"),
    "anti score matching": lambda t: penalties.AntiScoreMatching(target=t, estimator="hutchinson"),
    "saliency fooling": lambda t: penalties.SaliencyFooling(1.0, MASK, target=t),
    "bias norm": lambda t: penalties.BiasGradientNorm(layers=["first"], target=t),
    "bias matching": lambda t: penalties.BiasGradientMatching(layers=["first"], target=t),
}


def values(penalty, network, teacher, y=Y):
    """The penalty of each example and its gradient with respect to the first kernel."""
    needed = teacher if penalty.teacher_needs() is not None else None
    with tf.GradientTape() as tape:
        found = penalty.per_example(network, X, y, needed)
        total = tf.reduce_sum(found)
    return found, tape.gradient(total, network.get_layer("first").kernel.value)


def check_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max())


@pytest.fixture(scope="module", autouse=True)
def float64():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.diagonal
@pytest.mark.sample(2)
@pytest.mark.parametrize("target", ["label", "predicted", 0, 1])
@pytest.mark.parametrize("name", ONE_CLASS)
def test_probabilities_are_those_of_two_logits(name, target):
    (one, two), (teacher, of_two) = compiled_pair(), pair(seed=7)
    penalty = ONE_CLASS[name](target)
    check_equal(values(penalty, one, teacher), values(penalty, two, of_two))


def test_the_cross_entropy_of_all_classes():
    (one, two), (teacher, of_two) = compiled_pair(), pair(seed=7)
    penalty = JacobianMatching(target="all", loss="cross_entropy", temperature=0.5)
    check_equal(values(penalty, one, teacher), values(penalty, two, of_two))


@pytest.mark.sample(3, start=1)
@pytest.mark.parametrize("name", OF_LOGIT)
def test_logits_of_both_classes(name):
    (one, two), (teacher, of_two) = compiled_pair(), pair(seed=7)
    (_, negated), (_, of_negated) = compiled_pair(negated=True), pair(negated=True, seed=7)
    make = OF_LOGIT[name]
    check_equal(values(make(1), one, teacher), values(make(1), two, of_two))
    check_equal(values(make(0), one, teacher), values(make(1), negated, of_negated))
    by_label = values(make("label"), one, teacher)[0].numpy()
    of_class = [values(make(k), one, teacher)[0].numpy() for k in (0, 1)]
    np.testing.assert_allclose(by_label, np.where(Y, of_class[1], of_class[0]), rtol=1e-6)


def test_all_is_the_jacobian_of_the_one_logit():
    (one, two), (teacher, of_two) = compiled_pair(), pair(seed=7)
    for penalty in (GradientNorm(target="all"), JacobianMatching(target="all")):
        check_equal(values(penalty, one, teacher), values(penalty, two, of_two))


def test_training_on_a_cross_entropy_penalty_moves_the_weights():
    one, _ = pair()
    penalty = GradientNorm(1.0, loss="cross_entropy")
    model = tfgrad.PenalizedModel(one, [penalty])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    history = model.fit(X, Y, epochs=1, verbose=0).history
    assert history["gradient_norm"][0] > 0


def test_a_sign_that_nothing_tells():
    one, _ = pair()
    GradientNorm().per_example(one, X, Y)  # a squared norm has no sign
    with pytest.warns(errors.OutputMeaningWarning, match="one output"):
        GradientNorm(loss="cross_entropy").per_example(one, X, Y)
    other, _ = pair()
    GradientNorm(loss="cross_entropy").per_example(other, X, Y, outputs="binary")
    with pytest.raises(errors.ArgumentError, match="outputs: got 'regression'"):
        GradientNorm(target=0, loss="cross_entropy").per_example(other, X, outputs="regression")
