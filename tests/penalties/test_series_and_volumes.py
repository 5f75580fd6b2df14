"""Penalties on networks of series, volumes and tables, beside equal networks of images."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.series_cases import KINDS, inputs, network, pair
from tests.helpers.transfer_cases import check_value_and_gradient
from tfgrad import penalties
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.penalties import feature_maps

L = keras.layers
LABELS = np.array([2, 0, 1])
MASKS = {"series": np.arange(7.0), "volumes": np.arange(20.0).reshape(1, 4, 5)}


def with_gradient(penalty, net, x, teacher):
    needed = teacher if penalty.teacher_needs() is not None else None
    with tf.GradientTape() as tape:
        value = penalty.per_example(net, x, LABELS, needed)
        total = tf.reduce_sum(value * [1.0, -0.7, 2.0])
    sources = [v.value for v in net.trainable_variables]
    return value, tape.gradient(total, sources, unconnected_gradients="zero")


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_equal_those_of_images(float64, kind):
    net, twin = pair(kind, 2, 2, "student")
    teacher, twin_teacher = pair(kind, 3, 3, "teacher")
    x, flat = inputs(kind)
    layers = [("conv0", "conv0"), ("conv1", "conv2"), ("conv0", "conv2")]
    bare = MASKS[kind].reshape(KINDS[kind][2][:-1])
    pairs = {
        "norm": [penalties.GradientNorm()] * 2,
        "jacobian": [penalties.JacobianMatching(target="all")] * 2,
        "maps": [penalties.AttentionMatching(layers=layers)] * 2,
        "sizes": [penalties.AttentionMatching(layers=layers, power=1)] * 2,
        "pixel": [penalties.AttentionJacobianMatching(layers=layers[:1], window=0.4)] * 2,
        "bias": [penalties.BiasGradientNorm(layers=["conv1"])] * 2,
        "biases": [penalties.BiasGradientMatching(layers=layers[1:])] * 2,
        "trace": [penalties.ScoreMatching(estimator="exact")] * 2,
        "mask": [penalties.SaliencyFooling(1.0, mask) for mask in (MASKS[kind], bare)],
    }
    for name, (own, other) in pairs.items():
        value, gradient = with_gradient(own, net, x, teacher)
        expected, slopes = with_gradient(other, twin, flat, twin_teacher)
        np.testing.assert_allclose(value, expected, rtol=1e-10, err_msg=name)
        for got, slope in zip(gradient, slopes, strict=True):
            difference = np.abs(np.ravel(got) - np.ravel(slope)).max()
            assert difference <= 1e-10 * max(1, np.abs(slope).max()), name
    found = penalties.matching_layers(net, teacher, verbose=False)
    assert found == penalties.matching_layers(twin, twin_teacher, verbose=False)


@pytest.mark.slow  # differences of convolutions of volumes in float64
def test_weight_gradients_on_volumes(float64):
    net = network(3, (2, 3, 2, 1), 2, 1, 2, "student")
    taught = network(3, (2, 3, 2, 1), 2, 1, 1, "teacher")
    taught.get_layer("conv0").kernel.assign(
        np.random.default_rng(5).normal(size=taught.get_layer("conv0").kernel.shape)
    )
    x = np.random.default_rng(4).normal(size=(3, 2, 3, 2, 1))
    penalty = penalties.AttentionJacobianMatching(layers=["conv0"], window=1.0)
    check_value_and_gradient(
        lambda: penalty.per_example(net, x, teacher=taught), net, None, "volumes"
    )


def test_maps_of_volumes_are_resized_and_pooled_along_all_axes(float64):
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(2, n)) for n in (2, 3, 4)]
    maps = np.einsum("bi,bj,bk->bijk", *parts)
    grown = [part.repeat(2, 1) for part in parts]
    for wide, part in zip(grown, parts, strict=True):  # linear between centres: ¾ and ¼
        wide[:, 1:-1:2] = 0.75 * part[:, :-1] + 0.25 * part[:, 1:]
        wide[:, 2::2] = 0.25 * part[:, :-1] + 0.75 * part[:, 1:]
    expected = np.einsum("bi,bj,bk->bijk", *grown)
    large = tf.zeros((2, 4, 6, 8), tf.float64)
    found, same = feature_maps.of_one_size(tf.constant(maps), large, ("a", "b"))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert same is large
    pooled = feature_maps.average_pooled(tf.constant(maps), [2, 3, 4], 0.5)  # windows 1, 2, 2
    first, second, third = parts
    means = [(p[:, 1:] + p[:, :-1]) / 2 for p in (second, third)]
    np.testing.assert_allclose(pooled, np.einsum("bi,bj,bk->bijk", first, *means), atol=1e-12)
    with pytest.raises(ArgumentError, match=r"layers: got .*; expected maps of one kind"):
        feature_maps.of_one_size(large, large[..., 0], ("a", "b"))


def test_tables_have_gradients_and_masks_but_no_maps():
    table = keras.Sequential([keras.Input((4,)), L.Dense(5, "softplus", name="hidden"), L.Dense(3)])
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    assert penalties.GradientNorm().per_example(table, x, LABELS).shape == (3,)
    mask = penalties.SaliencyFooling(1.0, [1, 0, 0, 1]).per_example(table, x, LABELS)
    assert mask.shape == (3,)
    expected = r"layers: got 'hidden' .* of shape \(3, 5\); expected maps \[batch, time, channels\]"
    with pytest.raises(ArgumentError, match=expected):
        penalties.AttentionMatching(layers=["hidden"]).per_example(table, x, teacher=table)


def test_a_mask_fits_the_positions_of_the_input():
    net = network(1, (7, 1), 2, 1, 2, "series")
    x = np.zeros((3, 7, 1), "float32")
    with pytest.raises(ArgumentError, match=r"mask: got \(7, 1\) for inputs of size \(7,\)"):
        penalties.SaliencyFooling(1.0, np.ones((7, 1))).per_example(net, x, LABELS)
    several = keras.Model([net.inputs[0], keras.Input((7, 1))], net.outputs[0])
    with pytest.raises(ModelError, match=r"got inputs of shapes .*; expected one"):
        penalties.SaliencyFooling(1.0, np.ones(7)).per_example(several, [x, x], LABELS)
    assert repr(penalties.SaliencyFooling(1.0, np.ones(7))).count("mask=[7]") == 1
