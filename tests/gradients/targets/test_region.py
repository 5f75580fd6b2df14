"""Targets of dense outputs: the mean logit of a class over a region."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers import target_cases
from tests.helpers.target_cases import ONE_MASK, images, masks, probe, slope_error
from tfgrad.errors import ArgumentError, LogitsWarning
from tfgrad.targets import Region


def value(network, target, x=None, **options):
    return probe(network, images() if x is None else x, **options).score(target).numpy()


def test_the_mean_of_a_class_over_a_mask(float64):
    network = target_cases.unet()
    dense = network(images()).numpy()
    expected = dense[:, ONE_MASK, 1].mean(1)
    np.testing.assert_allclose(value(network, Region(1, ONE_MASK)), expected, rtol=1e-12)
    w = masks()
    expected = (dense[..., 2] * w).sum((1, 2)) / w.sum((1, 2))
    np.testing.assert_allclose(value(network, Region(2, w)), expected, rtol=1e-12)


def test_where_a_class_is_predicted(float64):
    network = target_cases.unet()
    dense = network(images()).numpy()
    winner = dense.argmax(-1)
    for i, found in enumerate(value(network, Region(1))):
        np.testing.assert_allclose(found, dense[i, winner[i] == 1, 1].mean(), rtol=1e-12)
    for i, found in enumerate(value(network, Region())):
        most = np.bincount(winner[i].ravel()).argmax()
        np.testing.assert_allclose(found, dense[i, winner[i] == most, most].mean(), rtol=1e-12)


def test_an_open_class_wins_most_of_the_mask(float64):
    network = target_cases.unet()
    dense = network(images()).numpy()
    for i, found in enumerate(value(network, Region([0, -1, -1], ONE_MASK))):
        winner = dense[i].argmax(-1)[ONE_MASK]
        most = np.bincount(winner).argmax() if i else 0
        np.testing.assert_allclose(found, dense[i, ONE_MASK, most].mean(), rtol=1e-12)


def test_one_logit_of_two_classes(float64):
    network = target_cases.unet(1)
    mean = network(images()).numpy()[:, ONE_MASK, 0].mean(1)
    np.testing.assert_allclose(value(network, Region(1, ONE_MASK)), mean)
    np.testing.assert_allclose(value(network, Region(0, ONE_MASK)), -mean)
    signs = np.where((network(images()).numpy()[:, ONE_MASK, 0] > 0).mean(1) > 0.5, 1, -1)
    np.testing.assert_allclose(value(network, Region(None, ONE_MASK)), signs * mean)
    numbers = value(network, Region(None, ONE_MASK), outputs="regression")
    np.testing.assert_allclose(numbers, mean)


def test_independent_labels_win_above_zero(float64):
    network = target_cases.unet()
    dense = network(images()).numpy()
    found = value(network, Region(0), outputs="independent")
    for i in range(len(found)):
        np.testing.assert_allclose(found[i], dense[i, dense[i, ..., 0] > 0, 0].mean())


@pytest.mark.parametrize("shape", [(7, 2), (4, 5, 3, 2)])
def test_series_and_volumes(float64, shape):
    x = keras.Input(shape)
    kind = keras.layers.Conv1D if len(shape) == 2 else keras.layers.Conv3D
    network = target_cases.with_biases(keras.Model(x, kind(3, 3, padding="same")(x)))
    given = np.random.default_rng(0).normal(size=(2, *shape))
    mask = np.arange(np.prod(shape[:-1])).reshape(shape[:-1]) % 2
    dense = network(given).numpy()
    expected = dense[:, mask == 1, 1].mean(1)
    for one in (Region(1, mask, each=False), Region(1, [mask, mask], each=True)):
        np.testing.assert_allclose(value(network, one, given), expected, rtol=1e-12)
    assert slope_error(network, given, Region()) < 1e-7


def test_what_it_is_made_of_is_fixed(float64):
    network, x = target_cases.unet(), images()
    at, away = probe(network, x), probe(network, 3 * images(5))
    fixed = at.fixed(Region())
    np.testing.assert_allclose(at.score(fixed), at.score(Region()), rtol=1e-12)
    expected = at.score_at(3 * images(5), fixed)
    np.testing.assert_allclose(away.score(fixed), expected, rtol=1e-12)
    assert np.abs(away.score(fixed) - away.score(Region())).max() > 1e-3


def test_gradients_are_combinations_of_those_of_positions(float64):
    network, x = target_cases.unet(), images()
    w = masks()

    def own(outputs):
        return tf.reduce_sum(outputs[..., 1] * w, [1, 2]) / w.sum((1, 2))

    expected = tfgrad.full_gradients(network, x, own).input_gradient
    found = tfgrad.full_gradients(network, x, Region(1, w)).input_gradient
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_infinite_logits_outside_do_not_count():
    network = target_cases.unet()

    class Outputs:
        network = "unet"

        def head(self, key):
            dense = network(images())
            return tf.where(ONE_MASK[None, :, :, None], dense, -np.inf * tf.ones_like(dense))

        def meaning(self, key):
            return "exclusive"

    assert np.isfinite(Region(1, ONE_MASK).compute(Outputs())).all()


def test_a_last_softmax_is_left_out(float64):
    network, x = target_cases.unet(last="softmax"), images()
    logits = tfgrad.models.logits(network)
    with pytest.warns(LogitsWarning):
        full = tfgrad.full_gradients(network, x, Region(1))
    expected = tfgrad.full_gradients(logits, x, Region(1)).input_gradient
    np.testing.assert_allclose(full.input_gradient, expected, atol=1e-12)


def test_what_comes_with_the_examples():
    assert set(Region().values) == {"classes"} and not Region(1, ONE_MASK).values
    open_one = Region(1, None)
    assert open_one.values == {"mask": None}
    (spec,) = open_one.specs(tf.TensorSpec([None, 6, 6, 3])).values()
    assert spec.shape.as_list() == [None, 6, 6] and spec.dtype == tf.float32
    network = target_cases.unet()
    given = open_one.with_values({"mask": masks()})
    np.testing.assert_array_equal(value(network, given), value(network, Region(1, masks())))
    with pytest.raises(ArgumentError, match=r"values: got \['a'\]; Region.* takes \['classes', 'm"):
        open_one.with_values({"a": [0, 1, 2]})


def test_choices_of_another_network(float64):
    network, other, x = target_cases.unet(), target_cases.unet(), images()
    other.layers[-1].bias.assign([3.0, 0.0, -3.0])
    chosen = probe(other, x).fixed(Region())
    given = Region().with_values(chosen.values)
    winner = other(x).numpy().argmax(-1)
    dense = network(x).numpy()
    for i, found in enumerate(value(network, given)):
        most = np.bincount(winner[i].ravel()).argmax()
        np.testing.assert_allclose(found, dense[i, winner[i] == most, most].mean())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Region("cat"), "classes: got 'cat'; expected a class index"),
        (lambda: Region(-2), "classes: got class -2; expected an index from 0 up, or None"),
        (lambda: Region(1, "best"), "mask: got 'best'; expected 'predicted', None, or an array"),
        (lambda: Region(1, [["a"]]), "mask: got <U1 of shape"),
        (lambda: Region(1, -ONE_MASK.astype(float)), "mask: got weights from -1.0 to"),
        (lambda: Region(1, np.full((6, 6), np.nan)), "mask: got weights from nan"),
        (lambda: Region(7), "classes: got class 7; expected 0 to 2"),
        (lambda: Region([0, 1, 7]), "classes: got class indices from 0 to 7; expected 0 to 2, or"),
        (lambda: Region([0, 1]), "classes: got 2 indices; expected one class for each of 3"),
        (lambda: Region(1, None), "mask: got None in Region.*expected a mask for each example"),
        (lambda: Region(1, np.ones((5, 6))), r"mask: got shape \(5, 6\).*expected \(6, 6\)"),
        (lambda: Region(1, np.ones((2, 6, 6))), r"got shape \(2, 6, 6\).*expected \(3, 6, 6\)"),
        (lambda: Region(1, 0 * ONE_MASK), "mask: got weights from 0.0 to 0.0 that sum to 0.0 in"),
        (lambda: Region(0, output="map"), "head: got 'map'; network 'unet' has one output"),
    ],
)
def test_what_makes_no_sense(make, message):
    network = target_cases.unet()
    with pytest.raises(ArgumentError, match=message):
        value(network, make())


def test_outputs_that_are_not_dense():
    with pytest.raises(ArgumentError, match=r"Region\(1.*output of shape \(3, 4\) of network 'cl"):
        value(target_cases.classifier(), Region(1))


def test_a_class_that_is_predicted_nowhere():
    network = target_cases.unet()
    network.layers[-1].bias.assign([9.0, -9.0, 0.0])
    message = "mask: got an empty region, because class 1 is predicted nowhere in example 0; exp"
    with pytest.raises(ArgumentError, match=message):
        value(network, Region(1))
    traced = tf.function(lambda x: probe(network, x).score(Region(1)), autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="got an empty region"):
        traced(tf.constant(images()))


def test_a_mask_that_is_wrong_in_a_graph():
    network = target_cases.unet()

    @tf.function(autograph=False)
    def score(x, mask):
        return probe(network, x).score(Region(1, mask))

    x = tf.constant(images())
    assert np.isfinite(score(x, tf.ones([3, 6, 6]))).all()
    for wrong in (tf.zeros([3, 6, 6]), -tf.ones([3, 6, 6])):
        with pytest.raises(tf.errors.InvalidArgumentError, match="mask: got weights from"):
            score(x, wrong)
