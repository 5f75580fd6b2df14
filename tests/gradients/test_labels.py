"""Labels in every form that Keras takes, and the values that are refused in each."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.one_logit import compiled_pair, images
from tests.helpers.training_cases import CLASSES, examples, sequential
from tfgrad.errors import ArgumentError, DataError
from tfgrad.gradients import labels
from tfgrad.penalties import GradientNorm

Y = np.array([2, 0, 1, 2])
FORMS = {
    "int64": Y,
    "float": Y.astype("float32"),
    "column": Y[:, None],
    "float column": Y[:, None].astype("float64"),
    "one-hot": np.eye(3)[Y],
    "one-hot integers": np.eye(3, dtype=int)[Y],
    "one-hot bools": np.eye(3, dtype=bool)[Y],
    "list": Y.tolist(),
}
WRONG = {
    "half": (np.array([0, 1.5]), r"no whole numbers, such as \[1.5\]"),
    "nan": (np.array([0, np.nan]), r"no whole numbers, such as \[nan\]"),
    "smoothed": (np.array([[0.9, 0.05, 0.05]]), r"not one-hot: \[\[0.9"),
    "two labels": (np.array([[1, 0, 0], [1, 1, 0]]), r"not one-hot: \[\[1.0, 1.0, 0.0\]\]"),
    "none": (np.array([[0.0, 0.0, 0.0]]), r"not one-hot: \[\[0.0"),
    "negative": (np.array([[2.0, -1.0, 0.0]]), r"not one-hot: \[\[2.0"),
}


@pytest.mark.parametrize("y", FORMS.values(), ids=FORMS)
def test_forms(y):
    found = labels.class_indices(y, 3)
    assert found.dtype == tf.int32 and np.array_equal(found, Y)
    traced = tf.function(lambda t: labels.class_indices(t, 3), autograph=False)
    assert np.array_equal(traced(tf.constant(y)), Y)


@pytest.mark.parametrize(("y", "message"), WRONG.values(), ids=WRONG)
def test_values_that_are_no_labels(y, message):
    with pytest.raises(ArgumentError, match=message):
        labels.class_indices(y, 3)
    traced = tf.function(lambda t: labels.class_indices(t, 3), autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="y: got"):
        traced(tf.constant(y))
    assert not all(holds for holds, _, _ in labels.conditions(y, 3))


def test_bools_of_one_logit():
    y = np.array([True, False])
    assert np.array_equal(labels.class_indices(y, 2, "binary"), [1, 0])


def test_independent_labels_and_regressions():
    one_each = np.eye(3)[Y]
    assert np.array_equal(labels.class_indices(one_each, 3, "independent"), Y)
    with pytest.raises(ArgumentError, match="needs one label per example; try target='predict"):
        labels.class_indices(np.ones((2, 3)), 3, "independent")
    with pytest.raises(ArgumentError, match="target: got 'label' on outputs of a regression"):
        labels.class_indices(Y, 3, "regression")


def fitted(loss, y):
    """The mean penalty of one step."""
    keras.utils.set_random_seed(0)
    model = tfgrad.PenalizedModel(sequential(), [GradientNorm(0.1)])
    model.compile(keras.optimizers.SGD(0.01), loss)
    return model.fit(examples()[0], y, 12, verbose=0).history["gradient_norm"][0]


@pytest.mark.long
def test_fit_takes_the_labels_that_keras_takes():
    _, y = examples()
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = fitted(sparse, y)
    assert expected > 0
    for same in (y.astype("float32"), y[:, None], y[:, None].astype("float64")):
        assert fitted(sparse, same) == pytest.approx(expected, rel=1e-6)
    dense = keras.losses.CategoricalCrossentropy(from_logits=True)
    one_hot = np.eye(CLASSES, dtype="float32")[y]
    assert fitted(dense, one_hot) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(DataError, match=r"y: got a row that is not one-hot: 0\.05 0\.9"):
        fitted(dense, 0.85 * one_hot + 0.05)


def test_fit_of_one_logit_checks_its_two_classes():
    one, _ = compiled_pair()
    model = tfgrad.PenalizedModel(one, [GradientNorm(0.1)])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    x = images(4)
    for y in ([0.0, 1.0, 1.0, 0.0], [[False], [True], [True], [False]]):
        model.train_on_batch(x, np.array(y))
    with pytest.raises(DataError, match=r"y: got labels from 0 to 2; .*one logit of two classes"):
        model.train_on_batch(x, np.array([0, 1, 2, 0]))
