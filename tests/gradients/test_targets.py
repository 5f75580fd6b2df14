"""Targets: which logit is differentiated, and what is said when that makes no sense."""

import numpy as np
import pytest
import tensorflow as tf

from tfgrad import targets
from tfgrad.errors import ArgumentError

# Two examples, two classes: the largest logits are those of classes 1 and 0.
LOGITS = tf.constant([[0.5, 2.0], [3.0, -1.0]])
LABELS = np.array([0, 0])


@pytest.mark.parametrize(
    ("target", "indices", "values"),
    [
        ("label", [0, 0], [0.5, 3.0]),
        ("predicted", [1, 0], [2.0, 3.0]),
        (None, [1, 0], [2.0, 3.0]),
        (1, [1, 1], [2.0, -1.0]),
        (np.int64(1), [1, 1], [2.0, -1.0]),
        (-1, [1, 0], [2.0, 3.0]),
        ([0, 1], [0, 1], [0.5, -1.0]),
        (np.array([-1, 1], "int8"), [1, 1], [2.0, -1.0]),
        (tf.constant([1, -1], tf.int64), [1, 0], [2.0, 3.0]),
    ],
)
def test_every_target(target, indices, values):
    chosen = targets.classes(targets.validated(target), LOGITS, LABELS)
    assert chosen.dtype == tf.int32
    np.testing.assert_array_equal(chosen, indices)
    np.testing.assert_array_equal(targets.select(LOGITS, chosen), values)


def test_all_passes_where_it_is_allowed():
    assert targets.validated("all") == "all"


def test_no_gradient_flows_through_the_choice():
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        value = targets.select(logits, targets.classes("predicted", logits))
    np.testing.assert_array_equal(tape.gradient(value, logits), [[0, 1], [1, 0]])


def test_select_keeps_float64():
    assert targets.select(tf.cast(LOGITS, tf.float64), tf.constant([0, 1])).dtype == tf.float64


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("lable", r"target: got 'lable'; expected one of 'label', 'predicted', 'all', a class"),
        (-2, r"target: got class -2; expected an index from 0 up, or -1"),
        (True, r"target: got bool values; expected integer class indices"),
        (0.5, r"target: got float64 values; .*not scores or one-hot rows"),
        ([0.0, 1.0], r"target: got float64 values"),
        ([[0, 1], [1, 0]], r"target: got dtype int32, shape \(2, 2\); .*shape \[batch\]"),
        (tf.constant([0.0]), r"target: got dtype float32, shape \(1,\)"),
    ],
)
def test_targets_that_are_none(target, message):
    with pytest.raises(ArgumentError, match=message):
        targets.validated(target)


def test_all_where_it_makes_no_sense():
    with pytest.raises(ArgumentError, match=r"target: got 'all'; expected one of 'label', 'pre"):
        targets.validated("all", allow_all=False)


def test_a_class_the_model_does_not_have():
    with pytest.raises(ArgumentError, match=r"got class 2; the model has 2 logits, .*0 to 1"):
        targets.classes(2, LOGITS)


def test_labels_as_a_column():
    np.testing.assert_array_equal(targets.labels(np.array([[1], [0]]), 2), [1, 0])
    assert targets.labels(np.array([1, 0], "uint8"), 2).dtype == tf.int32


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"y: got None; .*needs labels; try passing y, or target='predicted'"),
        (np.zeros((2, 3), "int32"), r"y: got shape \(2, 3\); expected"),
        (np.array(["0", "1"]), r"y: got dtype string; .*in \[0, 2\); try y.astype"),
        ({"a": np.array([0, 1])}, r"y: got a dict; .*one tensor of class indices"),
    ],
)
def test_labels_that_are_none(labels, message):
    with pytest.raises(ArgumentError, match=message):
        targets.classes("label", LOGITS, labels)


@pytest.mark.parametrize("target", ["label", 1, -1])
def test_config_of_a_plain_target_is_itself(target):
    assert targets.to_config(targets.validated(target)) == target


def test_config_of_one_class_per_example():
    config = targets.to_config(targets.validated(np.array([1, -1])))
    assert config == [1, -1]
    np.testing.assert_array_equal(targets.validated(config), [1, -1])
