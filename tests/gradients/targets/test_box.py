"""One number of a detection as a target."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import target_cases
from tests.helpers.target_cases import images, probe, slope_error
from tfgrad.errors import ArgumentError
from tfgrad.targets import Box


@pytest.fixture(name="network")
def _network(float64):
    return target_cases.detector()


def value(network, target, x=None):
    return probe(network, images() if x is None else x).score(target).numpy()


def test_the_best_box(network):
    scores, boxes = (network(images())[key].numpy() for key in ("scores", "boxes"))
    np.testing.assert_array_equal(value(network, Box()), scores.max((1, 2)))
    np.testing.assert_array_equal(value(network, Box(classes=1)), scores[:, :, 1].max(1))
    best = scores[:, :, 1].argmax(1)
    for k in range(4):
        found = value(network, Box(classes=1, value=k))
        np.testing.assert_array_equal(found, boxes[np.arange(3), best, k])


def test_boxes_and_classes_of_each_example(network):
    scores = network(images())["scores"].numpy()
    found = value(network, Box([0, 8, -1], [2, -1, 0]))
    expected = [scores[0, 0, 2], scores[1, 8].max(), scores[2, :, 0].max()]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(value(network, Box(4)), scores[:, 4].max(1))
    np.testing.assert_array_equal(value(network, Box(4, 1)), scores[:, 4, 1])


def test_both_in_one_output(network):
    parts = [network.output[key] for key in ("boxes", "scores")]
    one = keras.Model(network.input, keras.layers.Concatenate()(parts))
    for target in (Box(), Box(2, 1), Box(classes=0, value=3)):
        np.testing.assert_array_equal(value(one, target), value(network, target))


def test_a_list_of_outputs(network):
    flat = keras.Model(network.input, [network.output["boxes"], network.output["scores"]])
    np.testing.assert_array_equal(value(flat, Box(1)), value(network, Box(1)))
    swapped = value(flat, Box(1, scores=1, boxes=0))
    np.testing.assert_array_equal(swapped, value(network, Box(1)))


def test_four_classes_need_keys(float64):
    network = target_cases.detector(4)
    with pytest.raises(ArgumentError, match=r"Box.*'boxes': \(3, 9, 4\).*boxes, which 2 of the"):
        value(network, Box())
    scores = network(images())["scores"].numpy()
    for keys in ({"scores": "scores"}, {"boxes": "boxes"}):
        np.testing.assert_array_equal(value(network, Box(**keys)), scores.max((1, 2)))


def test_what_it_is_made_of_is_fixed(network):
    at = probe(network, images())
    fixed = at.fixed(Box())
    np.testing.assert_array_equal(at.score(fixed), at.score(Box()))
    away = 3 * images(5)
    np.testing.assert_array_equal(at.score_at(away, fixed), value(network, fixed, away))
    assert np.abs(value(network, fixed, away) - value(network, Box(), away)).max() > 1e-3
    assert slope_error(network, images(), Box(value=0)) < 1e-7


def test_what_comes_with_the_examples():
    assert set(Box().values) == {"anchor", "classes"} and not Box(1, 2).values
    assert set(Box(1).values) == {"classes"}
    assert {s.dtype for s in Box().specs(None).values()} == {tf.int32}
    network = target_cases.detector()
    given = Box(value=2).with_values({"anchor": [1, 1, 1], "classes": [0, 0, 0]})
    np.testing.assert_array_equal(value(network, given), value(network, Box(1, 0, 2)))


def test_scores_are_logits_and_coordinates_are_not():
    assert Box().of_logits and not Box(value=0).of_logits


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box("first"), "anchor: got 'first'; expected a box index"),
        (lambda: Box(-2), "anchor: got box -2; expected an index from 0 up"),
        (lambda: Box(9), "anchor: got box 9; expected 0 to 8"),
        (lambda: Box([0, 1, 9]), "anchor: got box indices from 0 to 9; expected 0 to 8, or -1"),
        (lambda: Box([0, 1]), "anchor: got 2 indices; expected one box for each of 3 examples"),
        (lambda: Box(classes=3), "classes: got class 3; expected 0 to 2"),
        (lambda: Box(value="x1"), "value: got 'x1'; expected 'score', or 0 to 3"),
        (lambda: Box(value=4), "value: got 4; expected 'score', or 0 to 3"),
        (lambda: Box(value=True), "value: got True; expected 'score', or 0 to 3"),
        (lambda: Box(scores="logits"), "head: got 'logits'; network 'detector' has heads"),
        (lambda: Box(scores="boxes", boxes="scores"), "boxes, which 0 of the outputs can be"),
    ],
)
def test_what_makes_no_sense(network, make, message):
    with pytest.raises(ArgumentError, match=message):
        value(network, make())


def test_outputs_without_boxes():
    message = r"Box.* for network 'classifier', whose outputs are \(3, 4\); expected one output"
    with pytest.raises(ArgumentError, match=message):
        value(target_cases.classifier(), Box())


def test_a_box_that_does_not_exist_in_a_graph(network):
    score = tf.function(lambda x, a: probe(network, x).score(Box(a)), autograph=False)
    x = tf.constant(images())
    assert np.isfinite(score(x, tf.constant([0, 1, 2]))).all()
    with pytest.raises(tf.errors.InvalidArgumentError, match="anchor: got box indices from"):
        score(x, tf.constant([0, 1, 9]))
